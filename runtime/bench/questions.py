"""Questions to a language model timed in three ways: in one batch, one by one, each as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..language.sampling import log_softmax
from ..systems import SharedQuestions
from .closed_loop import Ratio, Spread, ratio_of_medians, spread_of

__all__ = ["WAYS", "QuestionTimes", "time_questions"]

_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionTimes:
    """How long so many questions took in one way, the beginning that they share included."""

    way: str
    """Key of `WAYS`."""
    count: int
    """How many questions."""
    spread: Spread
    """Over the rounds."""
    times_batch: Ratio
    """How many times as long as in one batch."""
    max_difference: float
    """Largest difference of an answer's probability from that in one batch, in [0, 1]."""
    is_same: bool
    """Whether every question has the answer that it has in one batch."""


def time_questions(
    shared: SharedQuestions, counts: Sequence[int], rounds: int, *, step: Callable[[], None]
) -> list[QuestionTimes]:
    """Ask the first of the questions in every way once a round, in an order drawn anew.

    Args:
        shared: What to ask.
        counts: How many of the questions; each count is timed by itself.
        rounds: At least one; a further one comes before and doesn't count.
        step: Called after each round of each count.

    Raises:
        EngineError: The computation failed.
        PromptError: There is no room for them.
    """
    rng = np.random.default_rng(_SEED)
    times = []
    for count in counts:
        samples_ms: dict[str, list[float]] = {way: [] for way in WAYS}
        chances: dict[str, np.ndarray] = {}
        for number in range(-1, rounds):
            for way in rng.permutation(list(WAYS)).tolist():
                start_ns = time.perf_counter_ns()
                logits = WAYS[way](shared, shared.questions[:count])
                total_ms = (time.perf_counter_ns() - start_ns) / 1e6
                if number >= 0:
                    samples_ms[way].append(total_ms)
                chances[way] = np.exp(log_softmax(logits)[:, shared.answers])
            step()
        times += [_compared(way, count, samples_ms, chances) for way in WAYS]
    return times


def _compared(
    way: str, count: int, samples_ms: dict[str, list[float]], chances: dict[str, np.ndarray]
) -> QuestionTimes:
    here, batch = chances[way], chances[_BATCH]
    return QuestionTimes(
        way=way,
        count=count,
        spread=spread_of(samples_ms[way]),
        times_batch=ratio_of_medians(samples_ms[way], samples_ms[_BATCH]),
        max_difference=float(np.abs(here - batch).max()),
        is_same=bool((here.argmax(axis=1) == batch.argmax(axis=1)).all()),
    )


def _in_one_batch(shared: SharedQuestions, questions: Sequence[Sequence[int]]) -> np.ndarray:
    with shared.engine.prefill(shared.beginning) as beginning:
        outputs = shared.engine.extend(beginning, questions)
    return np.concatenate([output.logits for output in outputs])


def _one_by_one(shared: SharedQuestions, questions: Sequence[Sequence[int]]) -> np.ndarray:
    logits = []
    with shared.engine.prefill(shared.beginning) as beginning:
        for question in questions:
            with shared.engine.prefill([question], after=beginning) as asked:
                logits.append(asked.last.logits)
    return np.concatenate(logits)


def _each_whole(shared: SharedQuestions, questions: Sequence[Sequence[int]]) -> np.ndarray:
    logits = []
    for question in questions:
        with shared.engine.prefill([*shared.beginning, question]) as asked:
            logits.append(asked.last.logits)
    return np.concatenate(logits)


_BATCH = "one batch"
WAYS = {_BATCH: _in_one_batch, "one by one": _one_by_one, "each whole": _each_whole}
"""What is compared, each with (n, V) float32 logits behind n questions as its result."""
