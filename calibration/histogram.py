"""The values of a tensor over any number of runs, counted in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.errors import UsageError

__all__ = ["Histogram", "Range"]

_HALF_BINS = 4096
_SLICE = 2**18
"""Values that are counted at once, so that a tensor is not held three times over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Interval of values that shall be represented."""

    low: float
    """Smallest value."""
    high: float
    """Largest value; not below `low`."""


class Histogram:
    """Values of one tensor, counted all together, or how far they reach channel by channel.

    The bins lie evenly over [-limit, limit); a value outside doubles the limit as often as needed,
    which merges neighboring bins exactly. So nothing has to be known beforehand, and the order of
    the values leaves no trace. There are 8192 bins, and none where channels are told apart: BEiT-3
    large has some 344,000 of those.
    """

    def __init__(self, *, channel_axis: int | None = None) -> None:
        """Start without values.

        Args:
            channel_axis: The axis whose channels are told apart; None counts all together.
        """
        self.channel_axis = channel_axis
        self._counts = np.zeros((0, 2 * _HALF_BINS), np.int64)
        self._limits = self.lows = self.highs = np.zeros(0, np.float32)

    @property
    def counts(self) -> np.ndarray:
        """(1, bins) int64 where all values are counted together; (0, bins) else, or before any."""
        return self._counts

    @property
    def widths(self) -> np.ndarray:
        """(1,) float32, the width of a bin; the middle one begins at zero. (0,) without counts."""
        return self._limits / _HALF_BINS

    @property
    def absmax(self) -> np.ndarray:
        """(channels,) float32, the largest magnitude."""
        return np.maximum(-self.lows, self.highs)

    def add(self, values: np.ndarray) -> None:
        """Take in finite `values` of any shape and real dtype.

        Raises:
            UsageError: A value is not finite, or there are other channels than before.
        """
        if values.size == 0:
            return
        lows, highs = self._extremes(values)
        if not len(self.lows):
            self._begin(len(lows))
        if len(lows) != len(self.lows):
            raise UsageError(
                f"axis {self.channel_axis} must have the same channels in every run; got "
                f"{len(lows)} after {len(self.lows)}; take an axis of fixed extent"
            )
        if not np.isfinite([lows, highs]).all():
            raise UsageError(
                "calibrated tensors must be finite; got values from "
                f"{float(lows.min())} to {float(highs.max())}"
            )
        self.lows, self.highs = np.minimum(self.lows, lows), np.maximum(self.highs, highs)
        if self.channel_axis is None:
            while -lows[0] > self._limits[0] or highs[0] >= self._limits[0]:
                self._double()
            self._count(values.reshape(-1))

    def range(self, percent: float) -> Range:
        """Return the range that holds `percent` of the values and cuts as many off at both ends.

        Args:
            percent: In (0, 100]. 100 gives the smallest and the largest value; less is exact to
                the width of a bin, 1/4096 to 1/2048 of the largest magnitude.

        Raises:
            UsageError: `percent` is out of its bounds, or no value was counted.
        """
        if not 0 < percent <= 100 or not len(self._counts):
            raise UsageError(
                f"a range needs values and a percentage in (0, 100]; got {self._counts.sum()} "
                f"counted values and {percent}"
            )
        below = np.cumsum(self._counts[0]) / self._counts.sum()
        tail = (1 - percent / 100) / 2
        first = int(np.searchsorted(below, tail, side="right"))
        last = int(np.searchsorted(below, 1 - tail, side="left"))
        width = float(self.widths[0])
        return Range(
            low=max(float(self.lows[0]), (first - _HALF_BINS) * width),
            high=min(float(self.highs[0]), (last + 1 - _HALF_BINS) * width),
        )

    def state(self) -> dict[str, np.ndarray]:
        """Return all there is to know, as arrays by name; see `restored`."""
        reach = {"lows": self.lows, "highs": self.highs}
        if self.channel_axis is not None:
            return reach
        return {"counts": self._counts, "limits": self._limits, **reach}

    @classmethod
    def restored(
        cls, state: Mapping[str, np.ndarray], *, channel_axis: int | None = None
    ) -> Histogram:
        """Return the histogram that had this `state`."""
        histogram = cls(channel_axis=channel_axis)
        histogram.lows, histogram.highs = state["lows"], state["highs"]
        if channel_axis is None:
            histogram._counts, histogram._limits = state["counts"], state["limits"]
        return histogram

    def _extremes(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest and the largest value, of each channel where they are told apart."""
        others = tuple(range(values.ndim))
        if self.channel_axis is not None:
            channel = self.channel_axis % values.ndim
            others = others[:channel] + others[channel + 1 :]
        lows, highs = values.min(others), values.max(others)
        return lows.reshape(-1).astype(np.float32), highs.reshape(-1).astype(np.float32)

    def _begin(self, channels: int) -> None:
        self.lows = np.full(channels, np.inf, np.float32)
        self.highs = np.full(channels, -np.inf, np.float32)
        if self.channel_axis is None:
            self._counts = np.zeros((1, 2 * _HALF_BINS), np.int64)
            self._limits = np.full(1, 2.0**-20, np.float32)

    def _count(self, values: np.ndarray) -> None:
        # Powers of two scale exactly, so a bin is the same before and after a doubling.
        scale = _HALF_BINS / self._limits[0]
        for start in range(0, len(values), _SLICE):
            some = values[start : start + _SLICE].astype(np.float32, copy=False)
            bins = np.floor(some * scale).astype(np.int32) + _HALF_BINS
            self._counts[0] += np.bincount(bins, minlength=2 * _HALF_BINS)

    def _double(self) -> None:
        merged = self._counts[0].reshape(_HALF_BINS, 2).sum(1)
        self._counts[0] = 0
        self._counts[0, _HALF_BINS // 2 : _HALF_BINS // 2 + _HALF_BINS] = merged
        self._limits *= 2
