"""What a language engine returns: what it has read, what it says there, what it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cache import Place

__all__ = ["Answer", "Outputs", "Prefix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a model says at k positions."""

    hidden: np.ndarray | None
    """(k, width) float32 states after the last norm; None where they were not asked for."""
    logits: np.ndarray
    """(k, V) float32 scores of each next token, over the full vocabulary."""

    def take(self, rows: Sequence[int]) -> Outputs:
        """Return those of some of the k positions, in the order that is asked for."""
        chosen = np.array(rows, np.intp)
        hidden = None if self.hidden is None else self.hidden[chosen]
        return Outputs(hidden=hidden, logits=self.logits[chosen])


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """What an engine has read; any number of continuations may start from it.

    Its keys and values stay in the engine's cache until it is closed, left as a context, or
    forgotten by all who held it.
    """

    tokens: int
    """Positions that it takes."""
    outputs: Outputs
    """At the k positions that were asked for."""
    last: Outputs
    """At its last position, (1, width) and (1, V): what the next token is chosen from."""
    place: Place
    """Where it lies."""

    def close(self) -> None:
        """Give its place back; nothing can start from it any more."""
        self.place.close()

    def __enter__(self) -> Prefix:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model wrote."""

    tokens: tuple[int, ...]
    """n ids, without the one that ended it."""
    log_probabilities: np.ndarray
    """(n,) float64 of each token under the softmax over the full vocabulary."""
    watched: np.ndarray
    """(n, w) float64 log probabilities of the watched tokens where each token was chosen."""
    hidden: np.ndarray
    """(n + 1, width) float32 states: row i led to token i, row i + 1 is the one at token i."""
    is_complete: bool
    """Whether a stop token ended it, rather than the limit."""
    prefix: Prefix
    """All that came before and the answer, to go on from."""
