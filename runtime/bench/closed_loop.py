"""Bundles timed side by side: interleaved in one process, in an order drawn anew each round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..segmenter import Segmenter
from ..timing import percentiles_ms

__all__ = [
    "END_TO_END",
    "Ratio",
    "Spread",
    "Workload",
    "interleave",
    "ratio_of_medians",
    "spread_of",
]

END_TO_END = "end to end"
"""Name of the whole: a frame in memory, its masks in memory."""

_SAMPLES_FOR_P99 = 100
_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """What every bundle has to do, and on what."""

    frames: tuple[np.ndarray, ...]
    """(H, W, 3) uint8 RGB each, taken in turns."""
    phrases: tuple[str, ...]
    """What to segment on every frame."""
    device: str
    """"auto", "cpu", "cuda" or "cuda:N"."""
    threads: int | None
    """Threads of the CPU; None leaves one for each physical core."""
    iterations: int
    """Rounds that count."""
    warm_up: int
    """Rounds before them that don't."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How long something took over many samples."""

    count: int
    """Number of samples."""
    p50_ms: float
    """Median."""
    p90_ms: float
    """Nine of ten samples took no longer."""
    p99_ms: float | None
    """99 of 100 samples took no longer; None of fewer than 100 samples, which cannot tell."""
    quartile_range_ms: float
    """Length of the interval that holds the middle half of the samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as long one thing took as another."""

    value: float
    """Median of the one divided by the median of the other."""
    low: float
    """Lower end of the 95 % bootstrap interval."""
    high: float
    """Upper end of it."""


def interleave(
    segmenters: Sequence[Segmenter], workload: Workload, *, step: Callable[[], None]
) -> list[dict[str, list[float]]]:
    """Time every segmenter once a round, all of a round on the same frame.

    Every other time the frames are mirrored, so that none follows itself: a system may keep what
    it made of the last one.

    Args:
        segmenters: At least one.
        workload: What they have to do.
        step: Called after each round.

    Returns:
        For each segmenter the milliseconds of each round, by stage and under `END_TO_END`.
    """
    rng = np.random.default_rng(_SEED)
    mirrored = (np.ascontiguousarray(frame[:, ::-1]) for frame in workload.frames)
    frames = (*workload.frames, *mirrored)
    samples: list[dict[str, list[float]]] = [{} for _ in segmenters]
    for number in range(-workload.warm_up, workload.iterations):
        frame = frames[number % len(frames)]
        for which in rng.permutation(len(segmenters)):
            start_ns = time.perf_counter_ns()
            masks = segmenters[which].segment(frame, workload.phrases)
            total_ms = (time.perf_counter_ns() - start_ns) / 1e6
            if number >= 0:
                for stage, ms in (*masks.timings_ms, (END_TO_END, total_ms)):
                    samples[which].setdefault(stage, []).append(ms)
        step()
    return samples


def spread_of(samples_ms: Sequence[float]) -> Spread:
    """Summarise at least one sample."""
    percentiles = percentiles_ms(samples_ms)
    lower, upper = np.percentile(samples_ms, (25, 75)).tolist()
    return Spread(
        count=len(samples_ms),
        p50_ms=percentiles.p50,
        p90_ms=percentiles.p90,
        p99_ms=percentiles.p99 if len(samples_ms) >= _SAMPLES_FOR_P99 else None,
        quartile_range_ms=upper - lower,
    )


def ratio_of_medians(one_ms: Sequence[float], other_ms: Sequence[float]) -> Ratio:
    """Compare two series of the same rounds; whole rounds are resampled for the interval."""
    one, other = np.asarray(one_ms), np.asarray(other_ms)
    picks = np.random.default_rng(_SEED).integers(0, len(one), (_RESAMPLES, len(one)))
    ratios = np.median(one[picks], axis=1) / np.median(other[picks], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5)).tolist()
    return Ratio(value=float(np.median(one) / np.median(other)), low=low, high=high)
