"""Many questions behind one image: tokens that share a prefix and do not see one another.

A runtime that asks several things about one picture reads the picture once and lets each question
follow it; training does the same. A question may branch once more, as points that are asked about
one by one after the same box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..runtime.errors import require
from ..runtime.systems.sam4mllm_text import Piece
from .losses import IGNORED
from .numbers import NUMBERS

TRUNK = 0
"""Branch of what all branches of a turn see."""
PADDING = -1
"""Turn of what pads a row."""


class Tokens:
    """Words as token ids, piece by piece."""

    def __init__(self, path: Path) -> None:
        """Read a `tokenizer.json`."""
        self._tokenizer = require("tokenizers", extra="train").Tokenizer.from_file(str(path))
        self._templates: dict[str, list[int]] = {}

    def encode(self, piece: Piece) -> list[int]:
        """Return the token ids of a piece; nothing is added around them."""
        if not piece.is_template:
            return self._tokenizer.encode(piece.text, add_special_tokens=False).ids
        if piece.text not in self._templates:
            ids = self._tokenizer.encode(piece.text, add_special_tokens=False).ids
            self._templates[piece.text] = ids
        return self._templates[piece.text]

    def number_ids(self) -> np.ndarray:
        """Return the ids of "000" to "999", int64 (NUMBERS,)."""
        return np.array([self._tokenizer.token_to_id(f"{n:03d}") for n in range(NUMBERS)])


@dataclass(slots=True, kw_only=True)
class Turn:
    """One question with its answer, or several of either in a row, as tokens.

    Each list but `looks` has an entry for each token.
    """

    ids: list[int] = field(default_factory=list)
    """Token ids."""
    is_answer: list[bool] = field(default_factory=list)
    """Whether the model writes it."""
    branch: list[int] = field(default_factory=list)
    """TRUNK, or a number from 1 on for what no other branch sees."""
    place: list[int] = field(default_factory=list)
    """Position behind the prefix, from 0; all branches go on where the trunk ended."""
    looks: list[tuple[int, np.ndarray]] = field(default_factory=list)
    """Index of a token that the model writes, and the share of each patch, float (patches,), that
    it has to look at to know it."""
    boxes: list[int] = field(default_factory=list)
    """Index of the first number of each box that is measured; commas stand between the numbers."""

    def add(self, tokens: Tokens, pieces: Iterable[Piece], *, branch: int = TRUNK) -> list[int]:
        """Append pieces; return the indices of those tokens that the model writes."""
        written = []
        start = self._end(branch)
        for piece in pieces:
            ids = tokens.encode(piece)
            if piece.is_answer:
                written += range(len(self.ids), len(self.ids) + len(ids))
            self.ids += ids
            self.is_answer += [piece.is_answer] * len(ids)
            self.branch += [branch] * len(ids)
            self.place += range(start, start + len(ids))
            start += len(ids)
        return written

    def _end(self, branch: int) -> int:
        """Return the place behind what a branch sees."""
        seen = [p for p, b in zip(self.place, self.branch, strict=True) if b in (TRUNK, branch)]
        return seen[-1] + 1 if seen else 0


class Packed(NamedTuple):
    """Rows of turns; int64 (rows, tokens) but for the last three."""

    ids: np.ndarray
    """Token ids, 0 for padding."""
    turn: np.ndarray
    """Index of the turn in its row, PADDING for padding."""
    branch: np.ndarray
    """As in `Turn`."""
    place: np.ndarray
    """As in `Turn`, 0 for padding."""
    labels: np.ndarray
    """The token that a branch goes on with where the model writes it, IGNORED elsewhere."""
    looking: np.ndarray
    """int64 (n,): flat indices into (rows, tokens) of the places that predict a looking token."""
    looks: np.ndarray
    """float32 (n, patches): where to."""
    boxes: np.ndarray
    """int64 (m,): flat indices of the places that predict the first numbers of boxes."""


def pack(rows: Sequence[Sequence[Turn]], *, width: int, patches: int) -> Packed:
    """Lay turns side by side, as many of each row as `width` tokens hold.

    Args:
        rows: Turns for each image, in order of preference.
        width: Tokens of a row.
        patches: Length of a look.
    """
    shape = (len(rows), width)
    ids, branch, place = (np.zeros(shape, np.int64) for _ in range(3))
    turn, labels = np.full(shape, PADDING, np.int64), np.full(shape, IGNORED, np.int64)
    looking, looks, boxes = [], [], []
    for row, turns in enumerate(rows):
        start = 0
        for number, each in enumerate(turns):
            here = slice(start, start + len(each.ids))
            if here.stop > width:
                continue
            ids[row, here], branch[row, here], place[row, here] = each.ids, each.branch, each.place
            turn[row, here] = number
            before = _before(each)
            for index, earlier in enumerate(before):
                if each.is_answer[index]:
                    labels[row, start + earlier] = each.ids[index]
            looking += [row * width + start + before[index] for index, _ in each.looks]
            looks += [share for _, share in each.looks]
            boxes += [row * width + start + before[index] for index in each.boxes]
            start = here.stop
    looks = np.stack(looks).astype(np.float32) if looks else np.zeros((0, patches), np.float32)
    flat = (np.array(indices, np.int64) for indices in (looking, boxes))
    return Packed(ids, turn, branch, place, labels, next(flat), looks, next(flat))


def _before(turn: Turn) -> list[int]:
    """Return the index of the token before each one, on its own branch or on the trunk."""
    last: dict[int, int] = {TRUNK: -1}
    before = []
    for index, branch in enumerate(turn.branch):
        before.append(last.get(branch, last[TRUNK]))
        last[branch] = index
    return before
