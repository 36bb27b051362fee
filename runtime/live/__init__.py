"""A running stream: decode, prepare, infer, and draw and write, each on a frame of its own."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import EngineError, OutputError, SaymaskError, SourceError
from ..masks import Masks
from ..segmenter import Segmenter
from ..sinks import Sink
from ..sources.frame import Frame, Source
from ..sources.mailbox import newest
from ..timing import Percentiles, percentiles_ms
from .policy import LivePolicy, Pickup
from .prompt_board import PromptBoard
from .stages import INFER, OUTPUT, PREPARE, SOURCE, ReadAhead, Slot, StageClock

if TYPE_CHECKING:
    from .tracking import Tracker

__all__ = ["LivePolicy", "LiveReport", "run_live"]

_LOG = logging.getLogger("saymask")

_POLL_S = 0.05
_GRACE_S = 0.5
_AGES_KEPT = 1 << 16

_STALLED = {
    SOURCE: (SourceError, "look at the camera or the network"),
    PREPARE: (EngineError, "look at the load of the machine"),
    INFER: (EngineError, "look at the device with: saymask doctor"),
    OUTPUT: (OutputError, "look at the disk or whoever reads"),
}
"""The error of a stage that is stuck, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReport:
    """What became of a stream."""

    frames: int
    """Frames whose masks every sink was given."""
    keyframes: int
    """Those among them that the system saw; the others were tracked."""
    dropped: int
    """Frames of a live source that were left out, as newer ones had come or they were too old."""
    late: int
    """Frames that were older than the budget when they were written."""
    seconds: float
    """From start to end."""
    age_ms: Percentiles | None
    """Age of the last 65 536 frames when they were written, from capture; None of no frame."""


def run_live(
    segmenter: Segmenter,
    source: Source,
    board: PromptBoard,
    sinks: Sequence[Sink],
    policy: LivePolicy,
    stop: threading.Event,
) -> LiveReport:
    """Hand the masks of every frame to every sink, until the source ends or `stop` is set.

    A file's frames are all taken. Of a live source the newest is, and so late that it waits for no
    stage. New prompts hold from the next frame that is picked up; those that cannot be read are
    logged, and the old ones stay.

    Whatever ends the stream, what the engines have seen is written and every sink is completed
    first, but one that is stuck itself. All sinks live in one thread of their own.

    Args:
        segmenter: What segments.
        source: Where frames come from.
        board: What to segment; whoever holds it may post while the stream runs.
        sinks: What takes the masks, in this order.
        policy: Keyframes, budget and patience.
        stop: Ends the stream when it is set, as soon as the engines are done with their frame.

    Raises:
        PromptError: The first prompts cannot be read.
        SourceError: The source failed, or gave nothing for `policy.source_stall_s`.
        EngineError: An engine failed, or took `policy.stall_s` over a frame.
        OutputError: A sink failed, or took `policy.stall_s` over a frame.
        Exception: Whatever else a source, a tracker or a sink raises.
    """
    return _Line(segmenter, source, board, sinks, policy).run(stop)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """A frame on its way."""

    frame: Frame
    """The frame."""
    work: Any
    """What the step before made of it; None for a frame that is tracked."""


class _Line:
    """The stages of one stream, a thread each, and the caller's thread that watches over them.

    A stage that ends, for whatever reason, closes the slots on both its sides: what stands before
    it ends as well, and what stands behind it works off what it has.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        source: Source,
        board: PromptBoard,
        sinks: Sequence[Sink],
        policy: LivePolicy,
    ) -> None:
        self._segmenter, self._source, self._policy = segmenter, source, policy
        self._clock = StageClock()
        self._prepared, self._inferred = Slot[_Job](), Slot[_Job]()
        is_live = source.is_live
        self._pickup = Pickup(
            segmenter, board, policy, self._clock, self._prepared, is_live=is_live
        )
        self._tracker = _open_tracker(segmenter) if policy.every > 1 else None
        self._outlet = _Outlet(sinks)
        self._tally = _Tally(policy.latency_budget_ms if is_live else None)
        self._errors: list[BaseException] = []
        self._stuck: set[str] = set()
        self._frames = (newest if is_live else ReadAhead)(source.frames())
        # In a thread of its own, as letting go of a camera that blocks takes as long as it likes.
        self._closer = _thread("close", self._frames.close)

    def run(self, stop: threading.Event) -> LiveReport:
        """Run all stages to their end; see `run_live`."""
        began_ns = time.monotonic_ns()
        threads = {
            PREPARE: _thread(PREPARE, self._run_prepare),
            INFER: _thread(INFER, self._run_infer),
            OUTPUT: _thread(OUTPUT, self._run_output),
        }
        for thread in threads.values():
            thread.start()
        try:
            self._watch(threads, stop.is_set)
        except BaseException:  # the caller's thread was interrupted
            self._watch(threads, lambda: True)
            raise
        if self._errors:
            for error in self._errors[1:]:
                _LOG.info("the stream failed already when this came: %s", error)
            raise self._errors[0]
        dropped = self._frames.dropped + self._pickup.skipped
        return self._tally.report(dropped, (time.monotonic_ns() - began_ns) / 1e9)

    def _run_prepare(self) -> None:
        self._attempt(self._prepare)
        self._prepared.close()

    def _run_infer(self) -> None:
        self._attempt(self._infer)
        self._prepared.close()
        self._inferred.close()

    def _run_output(self) -> None:
        self._attempt(self._output)
        self._inferred.close()
        self._attempt(self._complete)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # whatever it is, the caller must hear of it
            self._errors.append(error)

    def _prepare(self) -> None:
        for picked in self._pickup.picked(self._frames):
            frame, work = picked.frame, None
            if picked.is_key:
                with self._clock.working(PREPARE):
                    work = self._segmenter.prepare(frame.image_hwc, picked.prompts)
            self._prepared.put(_Job(frame=frame, work=work))

    def _infer(self) -> None:
        for job in self._prepared:
            if job.work is not None:
                with self._clock.working(INFER):
                    job = replace(job, work=self._segmenter.infer(job.work))
            if not self._inferred.put(job):
                return

    def _output(self) -> None:
        self._outlet.open()
        for job in self._inferred:
            with self._clock.working(OUTPUT):
                self._outlet.write(job.frame, self._masks(job))
                self._tally.count(job)
            self._pickup.release()

    def _complete(self) -> None:
        with self._clock.working(OUTPUT):
            self._outlet.complete()

    def _masks(self, job: _Job) -> Masks:
        if self._tracker and job.work is None:
            return self._tracker.follow(job.frame.image_hwc)
        masks = self._segmenter.finish(job.work)
        return self._tracker.restart(job.frame.image_hwc, masks) if self._tracker else masks

    def _watch(self, threads: dict[str, threading.Thread], is_stopped: Callable[[], bool]) -> None:
        """Wait for every thread that is not stuck, and end the stream when it must end."""
        waiting = list(threads)
        while waiting:
            threads[waiting[-1]].join(_POLL_S)
            if is_stopped():
                self._prepared.close(keeps=False)
            self._look_for_stuck()
            if self._errors:
                self._prepared.close()
            if self._prepared.is_closed and not self._closer.ident:
                self._closer.start()
            waiting = [
                stage for stage in threads if threads[stage].is_alive() and stage not in self._stuck
            ]
        self._closer.join(_GRACE_S)
        if OUTPUT in self._stuck:
            self._attempt(self._outlet.complete)

    def _look_for_stuck(self) -> None:
        policy, details = self._policy, {SOURCE: self._source.name, OUTPUT: self._outlet.busy}
        for stage, busy_s in self._clock.busy_s().items():
            limit_s = policy.source_stall_s if stage == SOURCE else policy.stall_s
            if busy_s > limit_s and stage not in self._stuck:
                self._stuck.add(stage)
                self._errors.append(_stalled(stage, details.get(stage), limit_s))
                if stage in (INFER, OUTPUT):
                    self._inferred.close()


class _Outlet:
    """All sinks as one; a sink that is stuck does not keep the others from being completed."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._open: list[Sink] = []
        self._busy: Sink | None = None
        self._is_over = False
        self._lock = threading.Lock()

    @property
    def busy(self) -> str | None:
        """Name of the sink that is being written to."""
        return type(self._busy).__name__ if self._busy else None

    def open(self) -> None:
        """Enter every sink."""
        for sink in self._sinks:
            sink.__enter__()
            self._open.append(sink)

    def write(self, frame: Frame, masks: Masks) -> None:
        """Hand a frame to every sink."""
        for sink in self._sinks:
            with self._lock:
                if self._is_over:  # while the one before was stuck
                    return
                self._busy = sink
            try:
                sink.write(frame, masks)
            finally:
                self._busy = None

    def complete(self) -> None:
        """Leave every sink that is not busy, the last one first, and raise the first error."""
        errors = []
        while sink := self._pop():
            try:
                sink.__exit__(None, None, None)
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _pop(self) -> Sink | None:
        with self._lock:
            self._is_over = True
            ready = [sink for sink in self._open if sink is not self._busy]
            if not ready:
                return None
            self._open.remove(ready[-1])
            return ready[-1]


class _Tally:
    """Counts what was written."""

    def __init__(self, budget_ms: float | None) -> None:
        self._budget_ms = math.inf if budget_ms is None else budget_ms
        self._ages_ms: deque[float] = deque(maxlen=_AGES_KEPT)
        self._frames = self._keyframes = self._late = 0

    def count(self, job: _Job) -> None:
        """Note a frame that was written just now."""
        age_ms = (time.monotonic_ns() - job.frame.captured_ns) / 1e6
        self._ages_ms.append(age_ms)
        self._frames += 1
        self._keyframes += job.work is not None
        self._late += age_ms > self._budget_ms

    def report(self, dropped: int, seconds: float) -> LiveReport:
        """Sum up."""
        return LiveReport(
            frames=self._frames,
            keyframes=self._keyframes,
            dropped=dropped,
            late=self._late,
            seconds=seconds,
            age_ms=percentiles_ms(self._ages_ms) if self._ages_ms else None,
        )


def _thread(name: str, target: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=target, name=f"saymask-{name}", daemon=True)


def _stalled(stage: str, detail: str | None, limit_s: float) -> SaymaskError:
    kind, advice = _STALLED[stage]
    where = f"{stage!r} ({detail})" if detail else repr(stage)
    return kind(
        f"every stage of a stream must go on within {limit_s:g} s; {where} did not; {advice}, "
        "or allow more time"
    )


def _open_tracker(segmenter: Segmenter) -> Tracker:
    from .tracking import open_tracker

    return open_tracker(segmenter)
