"""What values the tensors of a graph take while it runs over real data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from ..runtime.errors import UsageError
from .session import open_model

__all__ = ["Histogram", "Range", "observe"]

_HALF_BINS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Interval of values that shall be represented."""

    low: float
    """Smallest value."""
    high: float
    """Largest value; not below `low`."""


class Histogram:
    """Values of one tensor over any number of runs, in constant memory.

    The bins lie evenly over [-limit, limit]; a value outside doubles the limit as often as needed,
    which merges neighbouring bins exactly. Nothing has to be known beforehand.
    """

    def __init__(self) -> None:
        """Start without values."""
        self._counts = np.zeros(2 * _HALF_BINS, np.int64)
        self._limit = 2.0**-20
        self._low, self._high = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Count finite `values` of any shape and real dtype.

        Raises:
            UsageError: A value is not finite.
        """
        values = values.ravel().astype(np.float32, copy=False)
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low + high):
            raise UsageError(f"calibrated tensors must be finite; got values from {low} to {high}")
        self._low, self._high = min(self._low, low), max(self._high, high)
        while max(-low, high) > self._limit:
            self._double()
        bins = (values * (_HALF_BINS / self._limit) + _HALF_BINS).astype(np.int32)
        np.minimum(bins, 2 * _HALF_BINS - 1, out=bins)
        self._counts += np.bincount(bins, minlength=2 * _HALF_BINS)

    def range(self, percent: float) -> Range:
        """Return the range that holds `percent` of the values and cuts as many off at both ends.

        Args:
            percent: In (0, 100]. 100 gives the smallest and the largest value; less is exact to
                the width of a bin, 1/4096 to 1/2048 of the largest magnitude.

        Raises:
            UsageError: `percent` is out of its bounds, or no value was counted.
        """
        if not 0 < percent <= 100 or not self._counts.any():
            raise UsageError(
                f"a range needs values and a percentage in (0, 100]; got {self._counts.sum()} "
                f"values and {percent}"
            )
        below = np.cumsum(self._counts) / self._counts.sum()
        tail = (1 - percent / 100) / 2
        first = int(np.searchsorted(below, tail, side="right"))
        last = int(np.searchsorted(below, 1 - tail, side="left"))
        edge = self._limit / _HALF_BINS
        return Range(
            low=max(self._low, (first - _HALF_BINS) * edge),
            high=min(self._high, (last + 1 - _HALF_BINS) * edge),
        )

    def _double(self) -> None:
        merged = self._counts.reshape(-1, 2).sum(1)
        self._counts[:] = 0
        self._counts[_HALF_BINS // 2 : _HALF_BINS // 2 + _HALF_BINS] = merged
        self._limit *= 2


def observe(
    model: onnx.ModelProto,
    feeds: Iterable[Mapping[str, np.ndarray]],
    tensors: Iterable[str],
    *,
    threads: int = 1,
) -> dict[str, Histogram]:
    """Run a graph over real data and count the values of chosen tensors.

    Args:
        model: FP32 graph.
        feeds: Inputs by name, one run after the other; only one is held at a time.
        tensors: Names of float tensors anywhere in the graph, its inputs included; all of one run
            are held at once.
        threads: Threads of one operator.

    Returns:
        Name -> histogram, for each of `tensors`.

    Raises:
        UsageError: There is no feed: ranges from made-up data break a model without a sign.
        EngineError: ONNX Runtime refuses the graph or a feed.
    """
    histograms = {name: Histogram() for name in tensors}
    given = {value.name for value in model.graph.input}
    made = [name for name in histograms if name not in given]
    engine = open_model(model, threads=threads, expose=made)
    has_run = False
    for feed in feeds:
        values = {**feed, **engine.run(feed)}
        for name, histogram in histograms.items():
            histogram.add(values[name])
        has_run = True
    if not has_run:
        raise UsageError(
            "calibration must see real inputs; got none; give frames and phrases like those the "
            "model will meet"
        )
    return histograms
