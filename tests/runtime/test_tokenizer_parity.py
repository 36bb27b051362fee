"""Token ids equal those of transformers' slow XLM-RoBERTa tokenizer, string for string."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from saymask.runtime.tokenizer import XlmRoberta

pytestmark = pytest.mark.parity

SLOW = "transformers 4.57, the last line with the slow XLMRobertaTokenizer"
SENTENCES = [
    "the red mug left of the lamp",
    "a small wooden chair behind the table",
    "[semantic] cat ear",
    "Zebra top LEFT, 3 carrots in center with ice & greenn leaves!",
    "le caf\u00e9 d'\u00e0 c\u00f4t\u00e9, \u732b\u306e\u8033",
    "\u043a\u0440\u0430\u0441\u043d\u0430\u044f \u043a\u0440\u0443\u0436\u043a\u0430",
    "1/2 (one half) < 2; a_b-c",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NASTY = [
    "", " ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\ufeff", "\u00ad", "\x00",
    "\x07", " the red mug", "the red mug ", "  the   red\tmug\n", "the\u00a0red\u3000mug",
    "the\u200bmug", "THE RED MUG", "Cat Ear", "[semantic] cat ear", "[SEMANTIC] cat",
    "[semantic]cat", "[ semantic ] cat", "caf\u00e9", "cafe\u0301", "\u212b", "\ufb01ne",
    "\uff11\uff12\uff13 \uff21\uff22", "\u2460 \u2161 \u00bd \u2122", "\uff1cs\uff1e",
    "\uff1cmask\uff1e", "\u2581the", "the\u2581mug", "\u2581", "\u2581\u2581", "\u2603",
    "\u2603\u2603 mug", "mug \U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\u732b", "\u732b\u306e\u8033",
    "\u5de6\u306e\u732b", "\u0645\u0631\u062d\u0628\u0627",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\u1100\u1161\u11a8", "<S>", "< s >", "<s", "s>",
    "<<s>>", "</S>", "<MASK>", "<pad", "<0x41>", "<s/>", "<unk", "<mask ", "</ s>", "a<s>b",
    "a <s> b", "a</s>b", "<s></s>", "<s><s>", " <s> ", "the <mask> mug", "the <mask>mug",
    "the  <mask>  mug", "<mask><mask>", "\u3000<mask>", "<pad><pad> mug", "the<unk>mug", "<unk>",
    "a<mask", "<s</s>>", "<<mask>>", "x" * 300, "the red mug " * 40, "\u732b" * 50,
    "!?.,;:'\"()[]{}#@%&*+-=/\\|~`^_$",
]  # fmt: skip
PARTS = ["mug", " the ", "", "\u2603", "  ", "\uff21", "[semantic] ", "\n"]


def _texts() -> list[str]:
    mixed = [left + mark + right for left, mark, right in itertools.product(PARTS, SPECIAL, PARTS)]
    generator = np.random.default_rng(0)
    letters = np.array(
        [*"abcdeghilmnrstu<>/[] \t", *SPECIAL, "\u2603", "\u00e9", "\uff41", "\u732b"]
    )
    random = ["".join(generator.choice(letters, generator.integers(1, 30))) for _ in range(400)]
    return SENTENCES + NASTY + mixed + random


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def model(request, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp(request.param) / "words.spm"
    with file.open("wb") as writer:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_writer=writer,
            model_type=request.param,
            vocab_size=150,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc",
            minloglevel=2,
        )
    return file


@pytest.fixture(scope="module")
def slow(model):
    transformers = pytest.importorskip("transformers", reason=f"needs {SLOW}")
    if not transformers.__version__.startswith("4."):
        pytest.skip(f"needs {SLOW}; got {transformers.__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.XLMRobertaTokenizer(str(model))


def test_ids_are_the_slow_tokenizers(model, slow, report_parity):
    ours = XlmRoberta(model, 1022)
    texts = _texts()
    pairs = [(text, ours.ids(text), slow(text)["input_ids"]) for text in texts]
    assert not [pair for pair in pairs if pair[1] != pair[2]]
    name = f"xlm-roberta ids, {model.parent.name[:-1]}, {len(texts)} texts"
    report_parity(name, "transformers 4.57", 0.0)


def test_batches_are_the_slow_tokenizers(model, slow):
    texts = ["mug", "the red mug left of the lamp", "[semantic] cat ear", ""]
    np.testing.assert_array_equal(
        XlmRoberta(model, 1022).batch(texts), slow(texts, padding=True)["input_ids"]
    )
