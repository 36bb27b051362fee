"""Which range of a tensor's values the integers shall cover: all of it, or less and finer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..runtime.errors import UnknownNameError, UsageError
from .histogram import Histogram, Range

__all__ = ["METHODS", "Observer"]

METHODS = ("entropy", "minmax", "mse", "percentile")

_STEPS_PER_OCTAVE, _OCTAVES = 16, 8
_SYMMETRIC_LEVELS, _AFFINE_STEPS = 127, 255
_LEAST_SHARE = 1e-4
"""What a distribution has at least where the other one has something, as in ONNX Runtime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """How a range is made of a histogram."""

    method: str
    """One of `METHODS`. "minmax" covers everything. "percentile" leaves out as much at either end.
    "mse" leaves the least squared error after rounding and clipping. "entropy" leaves the least
    Kullback-Leibler divergence of the rounded distribution from the real one (Migacz, "8-bit
    Inference with TensorRT", GTC 2017; onnxruntime.quantization.calibrate, HistogramCollector)."""
    percent: float = 99.99
    """Share of the values that "percentile" covers, in (0, 100]."""

    @classmethod
    def parse(cls, text: str) -> Observer:
        """Read what `str` writes: a method, and for the percentile its share: "percentile:99.9".

        Raises:
            UnknownNameError: There is no such method.
            UsageError: The share is no number in (0, 100], or the method takes none.
        """
        method, colon, percent = text.partition(":")
        if method not in METHODS:
            raise UnknownNameError("observer", method, METHODS)
        if not colon:
            return cls(method=method)
        try:
            share = float(percent)
        except ValueError:
            share = 0.0
        if method != "percentile" or not 0 < share <= 100:
            raise UsageError(
                "an observer must be a method alone, or percentile:P with P in (0, 100]; "
                f"got {text!r}"
            )
        return cls(method=method, percent=share)

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return f"{self.method}:{self.percent:g}" if self.method == "percentile" else self.method

    def range(self, histogram: Histogram, *, is_symmetric: bool) -> Range:
        """Return the range of values that 8 bits shall cover.

        Args:
            histogram: Of one channel.
            is_symmetric: Whether 255 integers lie evenly around zero; else 256 over the range.

        Raises:
            UsageError: The histogram has no value.
        """
        whole = histogram.range(self.percent if self.method == "percentile" else 100)
        if self.method in ("minmax", "percentile") or whole.low == whole.high:
            return whole
        measure = _squared_error if self.method == "mse" else _divergence
        counts, values, width = _occupied(histogram)
        grids = [_Grid.of(clipped, is_symmetric) for clipped in _clipped(whole)]
        # Rounding cannot be seen where a step is finer than a bin.
        seen = [grid for grid in grids if grid.step >= width] or grids[:1]
        return min(seen, key=lambda grid: measure(counts, values, grid)).covered


@dataclass(frozen=True, slots=True)
class _Grid:
    """The values that 8 bits can take."""

    covered: Range
    step: float
    first: int
    last: int

    @classmethod
    def of(cls, covered: Range, is_symmetric: bool) -> _Grid:
        if is_symmetric:
            step = max(-covered.low, covered.high) / _SYMMETRIC_LEVELS
            return cls(covered, step, -_SYMMETRIC_LEVELS, _SYMMETRIC_LEVELS)
        low, high = min(covered.low, 0.0), max(covered.high, 0.0)
        step = (high - low) / _AFFINE_STEPS
        first = round(low / step)
        return cls(covered, step, first, first + _AFFINE_STEPS)

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Return the integers of values."""
        return np.clip(np.rint(values / self.step), self.first, self.last).astype(np.int64)


def _clipped(whole: Range) -> Iterator[Range]:
    """Yield the range cut off at ever smaller magnitudes, itself first."""
    largest = max(-whole.low, whole.high)
    for number in range(_OCTAVES * _STEPS_PER_OCTAVE):
        limit = largest * 2 ** (-number / _STEPS_PER_OCTAVE)
        # What lies wholly beyond zero keeps its near end, as zero is covered anyway.
        yield Range(
            low=max(whole.low, -limit) if whole.low < limit else limit,
            high=min(whole.high, limit) if whole.high > -limit else -limit,
        )


def _occupied(histogram: Histogram) -> tuple[np.ndarray, np.ndarray, float]:
    """Return counts and middles of the bins from the first to the last filled one, and a width."""
    counts, width = histogram.counts[0], float(histogram.widths[0])
    first, last = np.flatnonzero(counts)[[0, -1]]
    middles = (np.arange(first, last + 1) - len(counts) // 2 + 0.5) * width
    return counts[first : last + 1].astype(np.float64), middles, width


def _squared_error(counts: np.ndarray, values: np.ndarray, grid: _Grid) -> float:
    return float(counts @ np.square(values - grid.rounded(values) * grid.step))


def _divergence(counts: np.ndarray, values: np.ndarray, grid: _Grid) -> float:
    """Return how far the rounded distribution lies from the clipped one.

    The clipped one holds what lies outside at its ends; the rounded one, made of what lies inside,
    spreads the values of a level evenly over the bins of it that are not empty.
    """
    is_inside = (values >= grid.covered.low) & (values <= grid.covered.high)
    inside = np.where(is_inside, counts, 0)
    if not inside.any():
        return np.inf
    ends = np.flatnonzero(is_inside)[[0, -1]]
    clipped = inside.copy()
    clipped[ends] += counts[: ends[0]].sum(), counts[ends[1] + 1 :].sum()
    levels = grid.rounded(values) - grid.first
    is_filled = clipped > 0
    sums = np.bincount(levels, inside)
    bins = np.bincount(levels, is_filled)
    spread = np.where(is_filled, sums[levels] / np.maximum(bins[levels], 1), 0)
    p = clipped[is_filled] / clipped.sum()
    q = np.maximum(spread[is_filled] / spread.sum(), _LEAST_SHARE / len(p))
    return float(p @ np.log(p / (q / q.sum())))
