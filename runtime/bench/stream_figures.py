"""What a recorded stream amounts to: ages, drops, shares of the stages, growth and energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..timing import Percentiles, percentiles_ms
from .closed_loop import Spread, spread_of
from .stream import StreamRecord

__all__ = [
    "EnergyFigures",
    "Growth",
    "StageShare",
    "StreamFigures",
    "StreamSeries",
    "figures_of",
    "series_of",
]

_SETTLING_SHARE = 0.1
_LEAST_SATURATED, _LEAST_SATURATED_SHARE = 30, 0.5
_LEAST_POINTS = 10
_CERTAIN = 2.0
_MOST_POINTS = 240
_MOMENTS = 20_000
_HOUR_S = 3600.0
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShare:
    """One stage's part of the work on a frame."""

    name: str
    """As in `Masks.timings_ms`."""
    mean_ms: float
    """Milliseconds a frame, over all frames that were written."""
    share: float
    """Part of the sum of all stages, in [0, 1]."""
    is_engine: bool
    """True for time inside an engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A straight line through a quantity over time (least squares), without its first tenth."""

    median: float
    """Median of the quantity, in its unit."""
    per_hour: float
    """Slope of the line."""
    over_run: float
    """How far the line rises from the first point to the last."""
    allowed: float
    """A rise up to this is flat."""
    is_growing: bool
    """True when the line rises by more than is allowed and by twice its own standard error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyFigures:
    """What one meter counted."""

    meter: str
    """Its name."""
    idle_w: float | None
    """Mean power before the stream, engines open; None when it was not told."""
    mean_w: float | None
    """Mean power inside the window; None when it was not told."""
    joules_per_frame: float | None
    """Energy inside the window divided by the frames written; idle power is part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFigures:
    """The figures of a stream's window."""

    seconds: float
    """Length of the window."""
    offered: int
    """Frames that the source numbered, from the first one written to the last."""
    processed: int
    """Frames whose masks were written."""
    dropped: int
    """Frames in between that were not: offered - processed."""
    rate_hz: float
    """Frames written a second."""
    cpu_ms: float | None
    """Processor time of this process a frame, all cores added up; None when it is unknown."""
    age: Spread
    """From a frame's capture until its masks are written."""
    age_max_ms: float
    """The oldest."""
    newest_age: Percentiles
    """Age of the newest masks there are, at any moment: over time, not over frames. A stall counts
    for as long as it lasts, though it costs the ages of frames but one old one and drops."""
    newest_age_max_ms: float
    """The highest there was, just before newer masks came."""
    engine: Spread | None
    """Time inside engines, of the frames that an engine saw; None when none did."""
    age_to_engine: float | None
    """The age's p99 divided by the engines' p50; None when either is unknown."""
    beyond_engine: Spread
    """Age minus engine time: waiting, preparing, finishing, writing. The view of latency."""
    overhead_share: float | None
    """1 - engine time / wall time, over the times between two written frames in which a frame was
    left out, so that another always waited: the share in which the engines stood idle although
    there was work. The view of throughput; None when that was so less than half of the times, as
    the engines were seldom what the stream waited for."""
    saturated: int
    """Number of those times."""
    stages: tuple[StageShare, ...]
    """Where a frame's work goes."""
    age_growth: Growth | None
    """Of the age, in milliseconds: of a queue that fills. None of less than ten points."""
    rss_growth: Growth | None
    """Of the memory in RAM, in MiB."""
    descriptor_growth: Growth | None
    """Of the number of open files."""
    thread_growth: Growth | None
    """Of the number of threads."""
    energy: tuple[EnergyFigures, ...]
    """One for each meter; none where the machine tells no energy."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamSeries:
    """The course of a stream in at most 240 points; times in seconds since the first masks."""

    frame_s: tuple[float, ...]
    """Middle of each slice of the frames."""
    age_p50_ms: tuple[float, ...]
    """Median age in the slice."""
    age_max_ms: tuple[float, ...]
    """Highest age in the slice."""
    sampled_s: tuple[float, ...]
    """When the process was looked at."""
    rss_mib: tuple[float | None, ...]
    """Its memory in RAM then; None where the system doesn't tell."""
    descriptors: tuple[float | None, ...]
    """Its open files then; None where the system doesn't tell."""


def figures_of(
    record: StreamRecord,
    *,
    engine_stages: Sequence[str],
    meters: Sequence[str],
    idle_w: Sequence[float],
) -> StreamFigures | None:
    """Work out the figures.

    Args:
        record: What was recorded.
        engine_stages: Laps that are time inside an engine.
        meters: Names of the meters, in the record's order.
        idle_w: Their mean power before the stream; not a number where it was not told.

    Returns:
        None when no frame was written inside the window.
    """
    if not len(record.index) or not record.seconds:
        return None
    offered, processed = int(record.index[-1] - record.index[0]) + 1, len(record.index)
    rate_hz = processed / record.seconds
    age = spread_of(record.age_ms.tolist())
    engine_ms = record.engine_ms[record.engine_ms > 0].tolist()
    engine = spread_of(engine_ms) if engine_ms else None
    overhead_share, saturated = _overhead(record)
    rss, descriptors, threads = record.holdings.T
    cpu_share = _slope(record.cpu_s, record.sampled_s)
    told = zip(meters, idle_w, record.joules.T, strict=True)
    return StreamFigures(
        seconds=record.seconds,
        offered=offered,
        processed=processed,
        dropped=offered - processed,
        rate_hz=rate_hz,
        cpu_ms=None if cpu_share is None else 1000 * cpu_share / rate_hz,
        age=age,
        age_max_ms=float(record.age_ms.max()),
        newest_age=_newest_age(record),
        newest_age_max_ms=float(_outlived_ms(record).max()),
        engine=engine,
        age_to_engine=age.p99_ms / engine.p50_ms if engine and age.p99_ms else None,
        beyond_engine=spread_of((record.age_ms - record.engine_ms).tolist()),
        overhead_share=overhead_share,
        saturated=saturated,
        stages=_stage_shares(record, engine_stages),
        age_growth=_growth(record.written_s, record.age_ms, least=1.0, share=0.1),
        rss_growth=_growth(record.sampled_s, rss / _MIB, least=4.0, share=0.01),
        descriptor_growth=_growth(record.sampled_s, descriptors, least=0.9, share=0.0),
        thread_growth=_growth(record.sampled_s, threads, least=0.9, share=0.0),
        energy=tuple(_energy(*each, record.sampled_s, rate_hz) for each in told),
    )


def series_of(record: StreamRecord) -> StreamSeries:
    """Thin the record out; a slice keeps its median and its worst, so no peak is lost."""
    slices = np.array_split(np.arange(len(record.index)), min(len(record.index), _MOST_POINTS) or 1)
    slices = [part for part in slices if len(part)]
    step = -(-len(record.sampled_s) // _MOST_POINTS) or 1
    return StreamSeries(
        frame_s=tuple(float(np.median(record.written_s[part])) for part in slices),
        age_p50_ms=tuple(float(np.median(record.age_ms[part])) for part in slices),
        age_max_ms=tuple(float(record.age_ms[part].max()) for part in slices),
        sampled_s=tuple(record.sampled_s[::step].tolist()),
        rss_mib=tuple(map(_told, record.holdings[::step, 0] / _MIB)),
        descriptors=tuple(map(_told, record.holdings[::step, 1])),
    )


def _overhead(record: StreamRecord) -> tuple[float | None, int]:
    """Share of idle engines while frames waited, and how often that was looked at."""
    is_saturated = np.diff(record.index) > 1
    saturated = int(is_saturated.sum())
    if saturated < max(_LEAST_SATURATED, _LEAST_SATURATED_SHARE * len(is_saturated)):
        return None, saturated
    wall_ms = 1000 * np.diff(record.written_s)[is_saturated].sum()
    return float(1 - record.engine_ms[1:][is_saturated].sum() / wall_ms), saturated


def _newest_age(record: StreamRecord) -> Percentiles:
    """Look at evenly spread moments between the first masks and the last."""
    moments_s = np.linspace(record.written_s[0], record.written_s[-1], _MOMENTS)
    newest = np.searchsorted(record.written_s, moments_s, side="right") - 1
    since_ms = 1000 * (moments_s - record.written_s[newest])
    return percentiles_ms((record.age_ms[newest] + since_ms).tolist())


def _outlived_ms(record: StreamRecord) -> np.ndarray:
    """Age of every frame's masks when newer ones took their place, (F,) float64."""
    return record.age_ms + 1000 * np.diff(record.written_s, append=record.written_s[-1])


def _stage_shares(record: StreamRecord, engine_stages: Sequence[str]) -> tuple[StageShare, ...]:
    total_ms = sum(ms for _, ms in record.stages_ms) or 1.0
    return tuple(
        StageShare(
            name=name,
            mean_ms=ms / len(record.index),
            share=ms / total_ms,
            is_engine=name in engine_stages,
        )
        for name, ms in record.stages_ms
    )


def _growth(
    times_s: np.ndarray, values: np.ndarray, *, least: float, share: float
) -> Growth | None:
    """Fit a line to (N,) float64; allowed is `share` of the median, `least` at least."""
    settled = slice(int(len(times_s) * _SETTLING_SHARE), None)
    times_s, values = times_s[settled], values[settled]
    if len(times_s) < _LEAST_POINTS or not np.isfinite(values).all():
        return None
    coefficients, covariance = np.polyfit(times_s - times_s.mean(), values, 1, cov=True)
    slope, error = float(coefficients[0]), float(np.sqrt(covariance[0, 0]))
    span_s, median = float(times_s[-1] - times_s[0]), float(np.median(values))
    allowed = max(least, share * median)
    return Growth(
        median=median,
        per_hour=slope * _HOUR_S,
        over_run=slope * span_s,
        allowed=allowed,
        is_growing=slope * span_s > allowed and slope > _CERTAIN * error,
    )


def _energy(
    meter: str, idle_w: float, joules: np.ndarray, times_s: np.ndarray, rate_hz: float
) -> EnergyFigures:
    mean_w = _slope(joules, times_s)
    return EnergyFigures(
        meter=meter,
        idle_w=_told(idle_w),
        mean_w=mean_w,
        joules_per_frame=None if mean_w is None else mean_w / rate_hz,
    )


def _slope(counts: np.ndarray, times_s: np.ndarray) -> float | None:
    """Tell how fast a counter, (S,) float64, ran from the first look to the last."""
    if len(counts) < 2:
        return None
    return _told((counts[-1] - counts[0]) / (times_s[-1] - times_s[0]))


def _told(value: float) -> float | None:
    """Turn what is not a number into None, as JSON has no such number."""
    return float(value) if np.isfinite(value) else None
