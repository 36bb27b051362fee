"""Choosing the next token: the likeliest one, or a seeded draw among the likely ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import UsageError

__all__ = ["Sampling", "choose", "log_softmax"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn; as it stands, the likeliest token each time."""

    temperature: float = 0.0
    """Logits are divided by it before a draw; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that hold this much of the probability."""
    seed: int = 0
    """Of NumPy's PCG64; equal seeds draw equal answers from equal logits."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense, as a UsageError."""
        if not (0 <= self.temperature < float("inf") and 0 < self.top_p <= 1 and self.seed >= 0):
            raise UsageError(
                "temperature must be a number from 0, top_p above 0 and at most 1, the seed from "
                f"0; got {self.temperature}, {self.top_p} and {self.seed}"
            )


def choose(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator) -> int:
    """Choose a token from (V,) float32 logits; of equal ones the first comes first."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    distances = logits.astype(np.float64) - logits.max()
    with np.errstate(over="ignore"):
        probabilities = np.exp(log_softmax(distances / sampling.temperature))
    likeliest = np.argsort(-probabilities, kind="stable")
    masses = probabilities[likeliest].cumsum()
    # The token that crosses top_p belongs to the nucleus (Holtzman et al. 2020, section 3.1).
    nucleus = masses[: int(np.searchsorted(masses, sampling.top_p)) + 1]
    drawn = int(np.searchsorted(nucleus, rng.random() * nucleus[-1], side="right"))
    return int(likeliest[min(drawn, len(nucleus) - 1)])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Turn (..., V) logits into float64 log probabilities over their last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
