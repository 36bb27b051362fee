"""A stream measured from the outside: a sink that notes each frame, a thread that looks around."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..masks import Masks
from ..sinks import Sink
from ..sources.frame import Frame
from .energy import Meter
from .process import holdings

__all__ = ["FRAME_BYTES", "StreamRecord", "StreamRecorder", "StreamWindow"]

_FRAME_COLUMNS = ("written_s", "index", "age_ms", "engine_ms")
FRAME_BYTES = 8 * len(_FRAME_COLUMNS)
"""What the recorder keeps of a frame."""

_MOST_RATE_HZ = 120.0
_MOST_SAMPLES = 1800
_LEAST_PERIOD_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWindow:
    """Which part of a stream counts, in seconds since its first masks."""

    warm_up_s: float
    """What comes before this doesn't count."""
    seconds: float
    """How long it counts then."""
    rate_hz: float | None
    """Frames a second that are to be expected at most; None where nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamRecord:
    """What was measured inside the window: F frames that were written, S looks around."""

    seconds: float
    """From the window's begin to its end, or to the interruption."""
    written_s: np.ndarray
    """(F,) float64 seconds since the first masks, rising."""
    index: np.ndarray
    """(F,) float64, the frames' numbers in the source."""
    age_ms: np.ndarray
    """(F,) float64, from capture to masks."""
    engine_ms: np.ndarray
    """(F,) float64, time inside engines; 0 for a frame that no engine saw."""
    stages_ms: tuple[tuple[str, float], ...]
    """Milliseconds of each stage, added up over the frames."""
    sampled_s: np.ndarray
    """(S,) float64 seconds since the first masks, rising."""
    holdings: np.ndarray
    """(S, 3) float64: bytes in RAM, descriptors, threads; not a number where nobody tells."""
    cpu_s: np.ndarray
    """(S,) float64: seconds that all cores together worked for this process."""
    joules: np.ndarray
    """(S, M) float64: energy since the start for each of M meters."""


class StreamRecorder(Sink):
    """Notes every frame's age and engine time; ends the stream when the window is over.

    All memory is taken when it starts, `FRAME_BYTES` a frame, so that its own growth is not
    mistaken for the stream's; more is taken only when frames come faster than expected.
    """

    def __init__(
        self,
        window: StreamWindow,
        *,
        engine_stages: Sequence[str],
        meters: Sequence[Meter],
        step: Callable[[], None],
    ) -> None:
        """Prepare to record.

        Args:
            window: What counts.
            engine_stages: The laps of `Masks.timings_ms` that are time inside an engine.
            meters: What counts energy.
            step: Called after each frame.
        """
        self.stop = threading.Event()
        """Is set when the window is over."""
        self.frame_hw: tuple[int, int] | None = None
        """Height and width of the newest frame in pixels."""
        self._window = window
        self._end_s = window.warm_up_s + window.seconds
        self._period_s = max(_LEAST_PERIOD_S, self._end_s / _MOST_SAMPLES)
        self._engine_stages = frozenset(engine_stages)
        self._meters = meters
        self._step = step
        self._first_ns: int | None = None
        self._count = self._sample_count = 0
        # `full`, unlike `zeros`, makes the system hand the memory out now.
        expected = int((window.rate_hz or _MOST_RATE_HZ) * self._end_s) + 1
        self._frames = np.full((expected, len(_FRAME_COLUMNS)), np.nan)
        self._samples = np.full((2 * _MOST_SAMPLES, 5 + len(meters)), np.nan)
        self._stages_ms: dict[str, float] = {}
        self._is_over = threading.Event()
        self._sampler = threading.Thread(target=self._look_around, name="saymask-sampler")
        self._error: BaseException | None = None

    def write(self, frame: Frame, masks: Masks) -> None:
        """Note a frame; see `Sink.write`."""
        now_ns = time.monotonic_ns()
        if self._first_ns is None:
            self._first_ns = now_ns
        self.frame_hw = frame.image_hwc.shape[0], frame.image_hwc.shape[1]
        written_s = (now_ns - self._first_ns) / 1e9
        engine_ms = sum(ms for stage, ms in masks.timings_ms if stage in self._engine_stages)
        if self._count == len(self._frames):
            self._frames = np.concatenate((self._frames, np.full_like(self._frames, np.nan)))
        row = written_s, frame.index, (now_ns - frame.captured_ns) / 1e6, engine_ms
        self._frames[self._count] = row
        self._count += 1
        if self._window.warm_up_s <= written_s < self._end_s:
            for stage, ms in masks.timings_ms:
                self._stages_ms[stage] = self._stages_ms.get(stage, 0.0) + ms
        self._step()

    def __enter__(self) -> StreamRecorder:
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking around.

        Raises:
            OSError: A meter could not be read.
        """
        self._is_over.set()
        self._sampler.join()
        if self._error:
            raise self._error

    def record(self) -> StreamRecord:
        """Cut the window out of what was noted so far; it may hold nothing."""
        begin_s = self._window.warm_up_s
        frames = _between(self._frames[: self._count], begin_s, self._end_s)
        samples = _between(self._samples[: self._sample_count], begin_s, self._end_s)
        last_s = max((part[-1, 0] for part in (frames, samples) if len(part)), default=begin_s)
        written_s, index, age_ms, engine_ms = frames.T
        return StreamRecord(
            seconds=float(last_s - begin_s),
            written_s=written_s,
            index=index,
            age_ms=age_ms,
            engine_ms=engine_ms,
            stages_ms=tuple(self._stages_ms.items()),
            sampled_s=samples[:, 0],
            holdings=samples[:, 1:4],
            cpu_s=samples[:, 4],
            joules=samples[:, 5:],
        )

    def _look_around(self) -> None:
        try:
            while not self._is_over.wait(self._period_s):
                if self._first_ns is not None:
                    self._sample((time.monotonic_ns() - self._first_ns) / 1e9)
        except BaseException as error:  # raised where the block ends
            self._error = error
            self.stop.set()

    def _sample(self, now_s: float) -> None:
        if now_s >= self._end_s:
            self.stop.set()
            return
        held = holdings()
        numbers = (held.rss_bytes, held.descriptors, held.threads) if held else (np.nan,) * 3
        joules = (meter.joules() for meter in self._meters)
        row = now_s, *numbers, time.process_time(), *joules
        self._samples[self._sample_count] = row
        self._sample_count += 1


def _between(rows: np.ndarray, begin_s: float, end_s: float) -> np.ndarray:
    """Take the rows (N, C) float64 whose first column is in [begin_s, end_s)."""
    begin, end = np.searchsorted(rows[:, 0], (begin_s, end_s))
    return rows[begin:end]
