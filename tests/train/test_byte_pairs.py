from __future__ import annotations

import json

import pytest

from saymask.runtime.errors import UsageError
from saymask.train.byte_pairs import SPECIAL_TOKENS, learn_byte_pairs

TEXTS = ["the red mug", "the blue teapot", "Yes", "No", "No object found.", '"the mug".'] * 3
ROWS = 1500


@pytest.fixture(scope="module")
def learned() -> str:
    return learn_byte_pairs(TEXTS, rows=ROWS)


@pytest.fixture(scope="module")
def tokenizer(learned):
    return pytest.importorskip("tokenizers").Tokenizer.from_str(learned)


def test_each_row_of_the_embedding_is_one_token(learned, tokenizer):
    assert sorted(tokenizer.get_vocab().values()) == list(range(ROWS))
    assert learned == learn_byte_pairs(TEXTS, rows=ROWS)


def test_numbers_and_verdicts_are_one_token_each(tokenizer):
    for text in [*(f"{number:03d}" for number in range(1000)), "Yes", "No", *SPECIAL_TOKENS]:
        assert len(tokenizer.encode(text).ids) == 1, text
    assert tokenizer.encode("[012,999,000,345]").tokens == list("[") + [
        "012", ",", "999", ",", "000", ",", "345", "]"
    ]  # fmt: skip
    assert tokenizer.encode("YesNoNoYes").tokens == ["Yes", "No", "No", "Yes"]


@pytest.mark.parametrize("text", ["the mug", 'Zwölf "boxes"?\n\t 1234567', "don't  \n\n say 🍎"])
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_it_splits_as_the_library_that_reads_llama_3(tokenizer, learned, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers 4.57")
    path = tmp_path / "tokenizer.json"
    path.write_text(learned)
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    for text in [*TEXTS[:6], "<|begin_of_text|>\n\nIt's [001,999] (12,3)<|eot_id|>", "ignored"]:
        assert tokenizer.encode(text).ids == reference(text)["input_ids"]


def test_the_file_cuts_as_llama_3_does(learned):
    content = json.loads(learned)
    split, _ = content["pre_tokenizer"]["pretokenizers"]
    assert r"\p{N}{1,3}" in split["pattern"]["Regex"]
    assert content["model"]["ignore_merges"]
    assert content["added_tokens"][0]["content"] == "<|begin_of_text|>"


def test_too_few_rows_are_refused():
    with pytest.raises(UsageError, match="900 leave out"):
        learn_byte_pairs(TEXTS, rows=900)
