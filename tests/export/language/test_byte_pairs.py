from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saymask.export.language.byte_pairs import read_byte_pairs
from saymask.export.language.tokens import Added, Words
from saymask.runtime.errors import CheckpointError
from saymask.runtime.language.gguf_file import TokenKind

from .checkpoints import byte_pair_tokenizer


def _content(pre: str = "llama-bpe") -> dict[str, Any]:
    return json.loads(byte_pair_tokenizer(pre))


def _read(folder: Path, content: dict[str, Any]) -> Words:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content))
    return read_byte_pairs(path, {500: Added(text="[SEG]", is_special=True)})


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
def test_the_kind_follows_from_the_expression(tmp_path: Path, pre: str) -> None:
    words = _read(tmp_path, _content(pre))
    assert (words.model, words.pre) == ("gpt2", pre)
    assert words.tokens[500].kind == TokenKind.CONTROL
    assert words.tokens[0].kind == TokenKind.NORMAL


def test_merges_are_spelled_as_one_text_or_as_two(tmp_path: Path) -> None:
    content = _content()
    words = _read(tmp_path, content)
    content["model"]["merges"] = list(words.merges)
    assert _read(tmp_path, content).merges == words.merges
    assert all(merge.count(" ") == 1 for merge in words.merges)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("model", "type"), "Unigram", "Unigram"),
        (("model", "ignore_merges"), False, "ignore_merges"),
        (("model", "byte_fallback"), True, "byte_fallback"),
        (("model", "merges"), None, "TypeError"),
        (("normalizer",), {"type": "Lowercase"}, "Lowercase"),
        (("pre_tokenizer",), {"type": "Metaspace"}, "Metaspace"),
        (("pre_tokenizer", "pretokenizers", 0, "pattern"), {"Regex": r"\d"}, "KeyError"),
        (("pre_tokenizer", "pretokenizers", 1, "use_regex"), True, "not by one expression"),
    ],
)
def test_other_kinds_are_refused(
    tmp_path: Path, place: tuple[Any, ...], value: Any, words: str
) -> None:
    content = _content()
    inner: Any = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(CheckpointError, match=words):
        _read(tmp_path, content)
