"""Milliseconds: of the stages of one frame, and over many frames."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

__all__ = ["Percentiles", "Stopwatch", "percentiles_ms"]


class Stopwatch:
    """Takes the time of named blocks: `with watch.lap("image"): ...`."""

    def __init__(self) -> None:
        """Start without laps."""
        self._laps_ms: dict[str, float] = {}

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Note how long the block takes; laps of one name add up."""
        start_ns = time.perf_counter_ns()
        yield
        lap_ms = (time.perf_counter_ns() - start_ns) / 1e6
        self._laps_ms[name] = self._laps_ms.get(name, 0.0) + lap_ms

    @property
    def laps_ms(self) -> tuple[tuple[str, float], ...]:
        """Name and milliseconds of each block, in the order they first ended."""
        return tuple(self._laps_ms.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """How long something took over many samples."""

    p50: float
    """Median in milliseconds."""
    p90: float
    """Nine of ten samples took no longer, in milliseconds."""
    p99: float
    """99 of 100 samples took no longer, in milliseconds."""


def percentiles_ms(samples_ms: Sequence[float]) -> Percentiles:
    """Summarise at least one sample; values between two samples are interpolated."""
    p50, p90, p99 = np.percentile(samples_ms, (50, 90, 99)).tolist()
    return Percentiles(p50=p50, p90=p90, p99=p99)
