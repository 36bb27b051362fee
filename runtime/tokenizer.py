"""Words as token ids, in the convention that a system's text encoder was trained with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from .errors import BundleError, PromptError, UnknownNameError, require
from .spec import TokenizerSpec

__all__ = ["TOKENIZERS", "Tokenizer", "XlmRoberta", "open_tokenizer"]


class Tokenizer(Protocol):
    """Turns several texts into one array of token ids."""

    def batch(self, texts: Sequence[str]) -> np.ndarray:
        """Encode N texts as (N, longest) int64 ids, padded on the right."""
        ...


class XlmRoberta:
    """SentencePiece pieces with XLM-RoBERTa's ids, as BEiT-3 takes them.

    <s> = 0, <pad> = 1, </s> = 2, <unk> = 3; another piece has SentencePiece's id + 1, and <mask>
    the id after the last piece's. All five are taken for themselves when a text spells them out
    (transformers, XLMRobertaTokenizer, the slow one, which EVF-SAM's scripts ask for).
    """

    BEGIN, PAD, END, UNKNOWN = range(4)

    def __init__(self, file: Path, max_tokens: int, rows: int | None = None) -> None:
        """Load the vocabulary.

        Args:
            file: A SentencePiece model.
            max_tokens: Longest accepted text, <s> and </s> included.
            rows: Rows of the word embedding; without them no id is refused.

        Raises:
            BundleError: `file` is not a SentencePiece model.
            MissingExtraError: sentencepiece is not installed.
        """
        sentencepiece = require("sentencepiece", extra="cpu")
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError) as error:
            raise BundleError(
                f"the vocabulary must be a SentencePiece model; {file} is not: {error}; "
                "export the bundle again"
            ) from error
        self._max_tokens = max_tokens
        self._rows = rows
        self._special = {
            "<s>": self.BEGIN,
            "<pad>": self.PAD,
            "</s>": self.END,
            "<unk>": self.UNKNOWN,
            "<mask>": self._pieces.get_piece_size() + 1,
        }
        self._splitter = re.compile(f"({'|'.join(self._special)})")

    def ids(self, text: str) -> list[int]:
        """Encode one text, wrapped in <s> and </s>.

        Raises:
            PromptError: It has too many tokens, or one that the network has no row for.
        """
        ids = [self.BEGIN]
        for part in self._splitter.split(text):
            ids += [self._special[part]] if part in self._special else self._plain(part)
        ids.append(self.END)
        if len(ids) > self._max_tokens:
            raise PromptError(
                f"a prompt must have at most {self._max_tokens} tokens with its begin and end; "
                f"got {len(ids)} in {text[:60]!r}; say it in fewer words"
            )
        if self._rows is not None and max(ids) >= self._rows:
            raise PromptError(
                f"a prompt's tokens must be below {self._rows}, the rows of the network's word "
                f"embedding; got {max(ids)} in {text[:60]!r}; leave out marks such as <mask>"
            )
        return ids

    def _plain(self, text: str) -> list[int]:
        unknown = self._pieces.unk_id()
        pieces = self._pieces.encode(text)
        return [self.UNKNOWN if piece == unknown else piece + 1 for piece in pieces]

    def batch(self, texts: Sequence[str]) -> np.ndarray:
        """Encode N texts as (N, longest) int64 ids, padded with <pad> on the right.

        Raises:
            PromptError: One of them is refused; see `ids`.
        """
        rows = [self.ids(text) for text in texts]
        padded = np.full((len(rows), max(map(len, rows), default=0)), self.PAD, np.int64)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        return padded


TOKENIZERS = {"xlm-roberta": XlmRoberta}
"""Kinds of tokenizers, by `TokenizerSpec.kind`."""


def open_tokenizer(folder: Path, spec: TokenizerSpec | None) -> Tokenizer:
    """Open the tokenizer of the bundle in `folder`.

    Raises:
        BundleError: It has none, or its vocabulary cannot be read.
        MissingExtraError: The library it needs is not installed.
        UnknownNameError: Its kind is not known here.
    """
    if spec is None:
        raise BundleError(
            f"the bundle's manifest must name a tokenizer; that of {folder} names none; export the "
            "bundle again"
        )
    if spec.kind not in TOKENIZERS:
        raise UnknownNameError("tokenizer", spec.kind, TOKENIZERS)
    return TOKENIZERS[spec.kind](folder / spec.file, spec.max_tokens, spec.rows)
