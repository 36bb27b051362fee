"""The values of a tensor over any number of runs, counted in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.errors import UsageError

__all__ = ["Histogram", "Range"]

_HALF_BINS, _CHANNEL_HALF_BINS = 4096, 512
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
    """Values of one tensor, all together or channel by channel.

    The bins lie evenly over [-limit, limit); a value outside doubles the limit as often as needed,
    which merges neighboring bins exactly. So nothing has to be known beforehand, and the order of
    the values leaves no trace. There are 8192 bins, or 1024 for each channel.
    """

    def __init__(self, *, channel_axis: int | None = None) -> None:
        """Start without values.

        Args:
            channel_axis: The axis whose channels are counted apart; None counts all together.
        """
        self.channel_axis = channel_axis
        self._half = _HALF_BINS if channel_axis is None else _CHANNEL_HALF_BINS
        self._counts = np.zeros((0, 2 * self._half), np.int64)
        self._limits = self.lows = self.highs = np.zeros(0, np.float32)

    @property
    def counts(self) -> np.ndarray:
        """(channels, bins) int64, one channel where all are counted together."""
        return self._counts

    @property
    def widths(self) -> np.ndarray:
        """(channels,) float32, the width of a bin; the middle one begins at zero."""
        return self._limits / self._half

    @property
    def absmax(self) -> np.ndarray:
        """(channels,) float32, the largest magnitude."""
        return np.maximum(-self.lows, self.highs)

    def add(self, values: np.ndarray) -> None:
        """Count finite `values` of any shape and real dtype.

        Raises:
            UsageError: A value is not finite, or there are other channels than before.
        """
        rows = self._rows(values)
        if rows.size == 0:
            return
        if not len(self._counts):
            self._begin(len(rows))
        if len(rows) != len(self._counts):
            raise UsageError(
                f"axis {self.channel_axis} must have the same channels in every run; got "
                f"{len(rows)} after {len(self._counts)}; take an axis of fixed extent"
            )
        lows, highs = rows.min(1), rows.max(1)
        if not np.isfinite([lows, highs]).all():
            raise UsageError(
                "calibrated tensors must be finite; got values from "
                f"{float(lows.min())} to {float(highs.max())}"
            )
        self.lows, self.highs = np.minimum(self.lows, lows), np.maximum(self.highs, highs)
        while (outside := (-lows > self._limits) | (highs >= self._limits)).any():
            self._double(outside)
        self._count(rows)

    def range(self, percent: float) -> Range:
        """Return the range that holds `percent` of the values and cuts as many off at both ends.

        Args:
            percent: In (0, 100]. 100 gives the smallest and the largest value; less is exact to
                the width of a bin, 1/4096 to 1/2048 of the largest magnitude.

        Raises:
            UsageError: `percent` is out of its bounds, or not exactly one channel was counted.
        """
        if not 0 < percent <= 100 or len(self._counts) != 1:
            raise UsageError(
                f"a range needs values and a percentage in (0, 100]; got {len(self._counts)} "
                f"channels with values and {percent}"
            )
        below = np.cumsum(self._counts[0]) / self._counts.sum()
        tail = (1 - percent / 100) / 2
        first = int(np.searchsorted(below, tail, side="right"))
        last = int(np.searchsorted(below, 1 - tail, side="left"))
        width = float(self.widths[0])
        return Range(
            low=max(float(self.lows[0]), (first - self._half) * width),
            high=min(float(self.highs[0]), (last + 1 - self._half) * width),
        )

    def channels(self) -> Iterator[Histogram]:
        """Yield the histogram of each channel."""
        for number in range(len(self._counts)):
            state = {name: array[number : number + 1] for name, array in self.state().items()}
            yield Histogram.restored(state, channel_axis=self.channel_axis)

    def state(self) -> dict[str, np.ndarray]:
        """Return all there is to know, as arrays by name; see `restored`."""
        return {
            "counts": self._counts,
            "limits": self._limits,
            "lows": self.lows,
            "highs": self.highs,
        }

    @classmethod
    def restored(
        cls, state: Mapping[str, np.ndarray], *, channel_axis: int | None = None
    ) -> Histogram:
        """Return the histogram that had this `state`."""
        histogram = cls(channel_axis=channel_axis)
        histogram._counts, histogram._limits = state["counts"], state["limits"]
        histogram.lows, histogram.highs = state["lows"], state["highs"]
        return histogram

    def _rows(self, values: np.ndarray) -> np.ndarray:
        """Lay values out as (channels, values of one)."""
        values = values.astype(np.float32, copy=False)
        if self.channel_axis is None:
            return values.reshape(1, -1)
        moved = np.moveaxis(values, self.channel_axis, 0)
        return moved.reshape(len(moved), -1)

    def _begin(self, channels: int) -> None:
        self._counts = np.zeros((channels, 2 * self._half), np.int64)
        self._limits = np.full(channels, 2.0**-20, np.float32)
        self.lows = np.full(channels, np.inf, np.float32)
        self.highs = np.full(channels, -np.inf, np.float32)

    def _count(self, rows: np.ndarray) -> None:
        # Powers of two scale exactly, so a bin is the same before and after a doubling.
        scales = (self._half / self._limits)[:, None]
        firsts = self._half + 2 * self._half * np.arange(len(rows), dtype=np.int32)[:, None]
        step = max(_SLICE, 4 * self._counts.size) // len(rows)
        for start in range(0, rows.shape[1], step):
            bins = np.floor(rows[:, start : start + step] * scales).astype(np.int32)
            bins += firsts
            found = np.bincount(bins.ravel(), minlength=self._counts.size)
            self._counts += found.reshape(self._counts.shape)

    def _double(self, which: np.ndarray) -> None:
        merged = self._counts[which].reshape(-1, self._half, 2).sum(2)
        wide = np.zeros((len(merged), 2 * self._half), np.int64)
        wide[:, self._half // 2 : self._half // 2 + self._half] = merged
        self._counts[which] = wide
        self._limits[which] *= 2
