from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saymask.export.language.layout import read_layout
from saymask.export.language.vocabulary import Vocabulary, read_vocabulary
from saymask.runtime.errors import CheckpointError
from saymask.runtime.language.gguf_file import TokenKind

from .checkpoints import byte_pair_tokenizer, write_folder

TWICE = {"395": {"content": "<box>"}, "396": {"content": "<box>"}}


def _read(folder: Path, controls: tuple[str, ...] = (), **options: Any) -> Vocabulary:
    made = write_folder(folder / "model", **options)
    return read_vocabulary(made, read_layout(made), controls=controls)


def test_every_row_has_a_token(tmp_path: Path) -> None:
    tokens = _read(tmp_path).words.tokens
    assert sorted(tokens) == list(range(400))
    assert (tokens[399].text, tokens[399].kind) == ("[PAD399]", TokenKind.UNUSED)


def test_pieces_come_before_byte_pairs(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    assert read_vocabulary(folder, read_layout(folder)).words.model == "llama"


def test_added_tokens_become_controls_where_it_is_asked(tmp_path: Path) -> None:
    words = _read(
        tmp_path, ("[REF]",), tokenizer=byte_pair_tokenizer("qwen2"), eos_token_id=3
    ).words
    kinds = {token.text: token.kind for token in words.tokens.values()}
    assert (kinds["[SEG]"], kinds["[REF]"]) == (TokenKind.CONTROL, TokenKind.CONTROL)


def test_the_settings_name_tokens_with_a_use(tmp_path: Path) -> None:
    settings = {
        "eos_token": {"content": "<|eot_id|>"}, "pad_token": "[SEG]", "bos_token": None,
        "add_bos_token": True, "chat_template": [{"name": "default", "template": "{{ it }}"}],
    }  # fmt: skip
    made = _read(tmp_path, tokenizer=byte_pair_tokenizer("llama-bpe"), settings=settings)
    texts = {use: made.words.tokens[at].text for use, at in made.uses.items()}
    assert (texts["eos"], texts["padding"]) == ("<|eot_id|>", "[SEG]")
    assert made.uses["bos"] == 1
    assert (made.adds_begin, made.template) == (True, "{{ it }}")


def test_a_template_may_lie_in_a_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert read_vocabulary(folder, read_layout(folder)).template == "{{ messages }}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocab_size": 389}, "id 389 is no row"),
        ({"controls": ("[SEG]",)}, r"'\[SEG\]' is missing"),
        ({"eos_token_id": 128001}, "eos are not"),
        ({"settings": {"pad_token": "<pad>"}}, "pad are not"),
        ({"settings": {"added_tokens_decoder": TWICE}}, "'<box>' comes twice"),
    ],
)
def test_a_vocabulary_of_another_model_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        _read(tmp_path, **options)


def test_a_folder_must_have_a_vocabulary(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match="has neither"):
        read_vocabulary(folder, read_layout(folder))
    # Pieces that transformers rewrote as byte pairs are no longer what llama.cpp reads.
    content = json.loads(byte_pair_tokenizer("llama-bpe"))
    content["pre_tokenizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        read_vocabulary(folder, read_layout(folder))
