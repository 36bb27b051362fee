"""Token ids follow XLM-RoBERTa's convention over SentencePiece's."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from saymask.runtime.errors import (
    BundleError,
    MissingExtraError,
    PromptError,
    UnknownNameError,
)
from saymask.runtime.spec import TokenizerSpec
from saymask.runtime.tokenizer import open_tokenizer

SENTENCES = [
    "the red mug left of the lamp",
    "a small wooden chair behind the table",
    "where you hold the blue knife",
    "[semantic] cat ear",
]
SPEC = TokenizerSpec(kind="xlm-roberta", file="tiny.spm", max_tokens=12, rows=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    with (folder / "tiny.spm").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_writer=file,
            vocab_size=100,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return folder


@pytest.fixture(scope="module")
def pieces(folder) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tiny.spm"))


def test_ids_are_shifted_and_wrapped(folder, pieces):
    text = "the red mug"
    ids = open_tokenizer(folder, SPEC).batch([text])
    assert ids.dtype == np.int64
    assert ids.tolist() == [[0, *(piece + 1 for piece in pieces.encode(text)), 2]]


def test_unknown_pieces_are_three(folder, pieces):
    assert pieces.encode("\u2603") == [pieces.piece_to_id("\u2581"), pieces.unk_id()]
    ids = open_tokenizer(folder, SPEC).batch(["\u2603"])
    assert ids.tolist() == [[0, pieces.piece_to_id("\u2581") + 1, 3, 2]]


@pytest.mark.parametrize("gap", ["", " ", "  "])
def test_marks_that_a_text_spells_out_are_marks(folder, pieces, gap):
    (mug,), (red,) = ([[piece + 1 for piece in pieces.encode(word)]] for word in ("mug", "red"))
    marks = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": pieces.get_piece_size() + 1}
    for mark, own in marks.items():
        ids = open_tokenizer(folder, SPEC).batch([f"red{gap}{mark}{gap}mug"])
        assert ids.tolist() == [[0, *red, own, *mug, 2]]


def test_case_and_unfinished_marks_are_plain_text(folder, pieces):
    for text in ("RED", "<S>", "< s >", "<mask"):
        plain = [3 if piece == pieces.unk_id() else piece + 1 for piece in pieces.encode(text)]
        assert open_tokenizer(folder, SPEC).batch([text]).tolist() == [[0, *plain, 2]]


def test_shorter_texts_are_padded_with_ones(folder):
    tokenizer = open_tokenizer(folder, SPEC)
    both = tokenizer.batch(["mug", "the red mug"])
    alone = tokenizer.batch(["mug"])
    assert both[0, : alone.shape[1]].tolist() == alone[0].tolist()
    assert both.shape[1] > alone.shape[1]
    assert set(both[0, alone.shape[1] :].tolist()) == {1}


def test_a_mark_that_the_network_has_no_row_for_is_refused(folder, pieces):
    mask = pieces.get_piece_size() + 1
    tokenizer = open_tokenizer(folder, replace(SPEC, rows=mask))
    assert len(tokenizer.batch(["the red mug"])) == 1
    with pytest.raises(PromptError, match=rf"below {mask}, .*; got {mask} in 'a <mask> mug'"):
        tokenizer.batch(["a <mask> mug"])


def test_over_long_prompts_say_both_counts(folder, pieces):
    text = "the red mug left of the lamp behind the table"
    count = len(pieces.encode(text)) + 2
    with pytest.raises(PromptError, match=rf"at most 12 tokens .* got {count} in 'the red mug"):
        open_tokenizer(folder, SPEC).batch([text])


def test_damaged_vocabulary(tmp_path):
    (tmp_path / "tiny.spm").write_bytes(b"\x00not a model")
    with pytest.raises(BundleError, match=r"SentencePiece model; .*tiny\.spm is not"):
        open_tokenizer(tmp_path, SPEC)


def test_unknown_kind(folder):
    spec = replace(SPEC, kind="clip")
    with pytest.raises(UnknownNameError, match="tokenizer must be one of xlm-roberta; got 'clip'"):
        open_tokenizer(folder, spec)


def test_without_sentencepiece(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"'sentencepiece'.*saymask\[cpu\]"):
        open_tokenizer(folder, SPEC)


def test_a_bundle_without_a_vocabulary(tmp_path):
    with pytest.raises(BundleError, match="must name a tokenizer; that of .* names none"):
        open_tokenizer(tmp_path, None)
