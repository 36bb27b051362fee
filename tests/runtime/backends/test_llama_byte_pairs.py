"""Byte pairs are merged as llama.cpp merges them, and control tokens stay out of words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from saymask.runtime.backends.llama_byte_pairs import BytePairs
from saymask.runtime.errors import EngineError
from saymask.runtime.language.gguf_file import LanguageFile

from .. import tiny_chat
from ..tiny_gguf import open_on

TEXTS = (
    "[281,251,863,999] [001,002,003,004]",
    'Please provide the bounding box (0+):\n"side view bird".',
    "Check if the points: [281,251,863,999]:\n(822,771) (577,915)",
    "YesNoNoYes", " Yes", "1234567 12 ½²", "it's WE'LL don'T", "  two\t\ttabs \n\n\n end  ", "",
    "é漢字 ñandú\u00a0nbsp\u2003em\x1c\x1f", "🙂🙂 <|eot_id|>", "a\r\n b\r", "'''s", "_a-b/c\\d",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_chat.write(tmp_path_factory.mktemp("model") / "chat.gguf")


@pytest.fixture(scope="module")
def pairs(model) -> BytePairs:
    return BytePairs(LanguageFile(model))


def test_words(pairs):
    texts = [pairs.piece(token) for token in pairs.tokens("[281,9]Yes\n\nthe", special=False)]
    assert texts == [b"[", b"281", b",", b"9", b"]", b"Yes", b"\n\n", b"the"]


def test_there_and_back(pairs):
    for text in TEXTS:
        ids = pairs.tokens(text, special=False)
        assert b"".join(map(pairs.piece, ids)).decode() == text


def test_control_tokens(pairs):
    (stop,) = pairs.tokens("<|eot_id|>", special=True)
    assert pairs.piece(stop) == b"<|eot_id|>"
    assert stop not in pairs.tokens("<|eot_id|>", special=False)


def test_as_llama_cpp(pairs, model):
    rng = random.Random(0)
    letters = "aYesNo tT'reLl09½,()[]\n\r\t \u00a0é漢.!🙂\u0301"
    drawn = ["".join(rng.choices(letters, k=rng.randrange(1, 24))) for _ in range(300)]
    with open_on("llamacpp", model) as engine:
        for text in (*TEXTS, *drawn):
            for special in (False, True):
                expected = engine.tokens(text, special=special)
                assert pairs.tokens(text, special=special) == expected, repr(text)


def test_words_that_are_told_apart_otherwise(model):
    file = LanguageFile(model)
    file.metadata["tokenizer.ggml.pre"] = "qwen2"
    with pytest.raises(EngineError, match="as 'llama-bpe' does; .* says 'qwen2'; give token ids"):
        BytePairs(file)
