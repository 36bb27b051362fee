"""Questions to a language model timed in three ways: in one batch, one by one, each as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..language.sampling import log_softmax
from ..systems import SharedQuestions
from ..timing import Stopwatch
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
    asking: Spread
    """Once the beginning is read; all of it where nothing is shared. Over the rounds."""
    asking_times_batch: Ratio
    """How many times as long as in one batch, once the beginning is read."""
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
        taken: dict[str, list[Stopwatch]] = {way: [] for way in WAYS}
        chances: dict[str, np.ndarray] = {}
        for number in range(-1, rounds):
            for way in rng.permutation(list(WAYS)).tolist():
                watch = Stopwatch()
                logits = WAYS[way](shared, shared.questions[:count], watch)
                if number >= 0:
                    taken[way].append(watch)
                chances[way] = np.exp(log_softmax(logits)[:, shared.answers])
            step()
        times += [_compared(way, count, taken, chances) for way in WAYS]
    return times


def _compared(
    way: str,
    count: int,
    taken: Mapping[str, Sequence[Stopwatch]],
    chances: Mapping[str, np.ndarray],
) -> QuestionTimes:
    (all_ms, asking_ms), (batch_all_ms, batch_asking_ms) = (
        _samples_ms(taken[name]) for name in (way, _BATCH)
    )
    here, batch = chances[way], chances[_BATCH]
    return QuestionTimes(
        way=way,
        count=count,
        spread=spread_of(all_ms),
        times_batch=ratio_of_medians(all_ms, batch_all_ms),
        asking=spread_of(asking_ms),
        asking_times_batch=ratio_of_medians(asking_ms, batch_asking_ms),
        max_difference=float(np.abs(here - batch).max()),
        is_same=bool((here.argmax(axis=1) == batch.argmax(axis=1)).all()),
    )


def _samples_ms(watches: Sequence[Stopwatch]) -> tuple[list[float], list[float]]:
    """Return milliseconds of each round, in all and of the asking alone."""
    laps = [dict(watch.laps_ms) for watch in watches]
    return [sum(each.values()) for each in laps], [each[_ASKING] for each in laps]


def _in_one_batch(
    shared: SharedQuestions, questions: Sequence[Sequence[int]], watch: Stopwatch
) -> np.ndarray:
    with watch.lap(_READING):
        beginning = shared.engine.prefill(shared.beginning)
    with beginning, watch.lap(_ASKING):
        outputs = shared.engine.extend(beginning, questions)
    return np.concatenate([output.logits for output in outputs])


def _one_by_one(
    shared: SharedQuestions, questions: Sequence[Sequence[int]], watch: Stopwatch
) -> np.ndarray:
    logits = []
    with watch.lap(_READING):
        beginning = shared.engine.prefill(shared.beginning)
    with beginning, watch.lap(_ASKING):
        for question in questions:
            with shared.engine.prefill([question], after=beginning) as asked:
                logits.append(asked.last.logits)
    return np.concatenate(logits)


def _each_whole(
    shared: SharedQuestions, questions: Sequence[Sequence[int]], watch: Stopwatch
) -> np.ndarray:
    logits = []
    with watch.lap(_ASKING):
        for question in questions:
            with shared.engine.prefill([*shared.beginning, question]) as asked:
                logits.append(asked.last.logits)
    return np.concatenate(logits)


_READING, _ASKING = "beginning", "questions"
_BATCH = "one batch"
WAYS = {_BATCH: _in_one_batch, "one by one": _one_by_one, "each whole": _each_whole}
"""What is compared, each with (n, V) float32 logits behind n questions as its result."""
