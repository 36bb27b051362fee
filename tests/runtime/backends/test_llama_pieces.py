"""SentencePiece merges by score, falls back to bytes and keeps control tokens out of words."""

from __future__ import annotations

import pytest

from saymask.runtime.backends.llama_pieces import Pieces
from saymask.runtime.language.gguf_file import LanguageFile

from .. import tiny_gguf
from ..tiny_gguf import REF, SEG


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Pieces:
    return Pieces(LanguageFile(tiny_gguf.write(tmp_path_factory.mktemp("model") / "tiny.gguf")))


def _texts(pieces: Pieces, text: str, *, special: bool = False) -> list[bytes]:
    return [pieces.piece(token) for token in pieces.tokens(text, special=special)]


def test_words(pieces):
    assert _texts(pieces, "the mug") == [b" the", b" mug"]
    assert _texts(pieces, "mugs") == [b" mug", b"s"]
    assert _texts(pieces, "") == []


def test_bytes(pieces):
    assert _texts(pieces, "é") == [b" ", b"\xc3", b"\xa9"]
    assert pieces.piece(pieces.tokens("\n", special=False)[-1]) == b"\n"


def test_control_tokens(pieces):
    assert pieces.tokens("[SEG]</s>", special=True) == [SEG, 2]
    assert SEG not in pieces.tokens("[SEG]", special=False)
    assert pieces.tokens("[REF]", special=False) == [REF]
    assert pieces.piece(SEG) == b"[SEG]"
