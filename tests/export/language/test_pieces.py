from __future__ import annotations

from pathlib import Path

import pytest
from sentencepiece import sentencepiece_model_pb2

from saymask.export.language.pieces import read_pieces
from saymask.export.language.tokens import Added
from saymask.runtime.errors import CheckpointError
from saymask.runtime.language.gguf_file import TokenKind

from .checkpoints import piece_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tokenizer.model"
    made.write_bytes(piece_model())
    return made


def test_pieces_keep_their_kinds_and_scores(path: Path) -> None:
    words = read_pieces(path, {390: Added(text="[SEG]", is_special=True)})
    kinds = [words.tokens[at].kind for at in (0, 1, 3, 300, 390)]
    assert kinds == [
        TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.BYTE, TokenKind.NORMAL, TokenKind.CONTROL,
    ]  # fmt: skip
    assert words.tokens[3].text == "<0x00>"
    assert words.tokens[300].score > words.tokens[301].score > words.tokens[390].score
    assert words.has_prefix


def test_added_tokens_may_name_pieces_but_not_replace_them(path: Path) -> None:
    same = {1: Added(text="<s>", is_special=True)}
    assert read_pieces(path, same).tokens[1].kind == TokenKind.CONTROL
    with pytest.raises(CheckpointError, match=r"'\[SEG\]' takes the place of '<s>'"):
        read_pieces(path, {1: Added(text="[SEG]", is_special=True)})


@pytest.mark.parametrize("change", ["unigram", "normalizer", "spaces", "damage"])
def test_other_models_are_refused(path: Path, change: str) -> None:
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    if change == "unigram":
        model.trainer_spec.model_type = 1
    if change == "normalizer":
        model.normalizer_spec.name = "nmt_nfkc"
    if change == "spaces":
        model.normalizer_spec.remove_extra_whitespaces = True
    path.write_bytes(b"x" * 9 if change == "damage" else model.SerializeToString())
    with pytest.raises(CheckpointError, match="must be a SentencePiece model of byte pairs"):
        read_pieces(path, {})
