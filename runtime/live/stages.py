"""What runs side by side in a stream: places between two threads, and a clock over all stages."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Generic, TypeVar

from ..sources.frame import Frame

__all__ = ["INFER", "OUTPUT", "PREPARE", "SOURCE", "ReadAhead", "Slot", "StageClock"]

SOURCE, PREPARE, INFER, OUTPUT = "source", "prepare", "infer", "output"
"""The stages of a stream, in a frame's order."""

T = TypeVar("T")

_REMEMBERED = 15
_JOIN_S = 1.0


class Slot(Generic[T]):
    """One place between a thread that makes things and a thread that takes them, in order."""

    def __init__(self) -> None:
        """Begin empty and open."""
        self._changed = threading.Condition()
        self._things: deque[T] = deque()
        self._is_closed = False

    def put(self, thing: T) -> bool:
        """Wait until the place is free and put `thing` there; False when nobody will take it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._things or self._is_closed)
            if not self._is_closed:
                self._things.append(thing)
                self._changed.notify_all()
            return not self._is_closed

    def close(self, *, keeps: bool = True) -> None:
        """Take nothing more; what lies there can still be had, if it `keeps`."""
        with self._changed:
            self._is_closed = True
            if not keeps:
                self._things.clear()
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """True when it takes nothing more."""
        return self._is_closed

    def __len__(self) -> int:
        """Count what lies there: 0 or 1."""
        return len(self._things)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._things or self._is_closed)
            if not self._things:
                raise StopIteration
            self._changed.notify_all()
            return self._things.popleft()


class ReadAhead:
    """Reads a file's frames in a thread, one ahead of their taker, and drops none.

    It is used as `mailbox.Newest` is: the source's error is raised to the taker after the last
    frame, and any thread may close it.
    """

    dropped = 0
    """Frames that nobody took: none."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        """Start to read `frames`, which belong to it from now on."""
        self._frames = frames
        self._slot: Slot[Frame] = Slot()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="saymask-source", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        for frame in self._slot:
            return frame
        error, self._error = self._error, None
        raise error or StopIteration

    def close(self) -> None:
        """Stop reading and let go of the file."""
        self._slot.close(keeps=False)
        self._thread.join(_JOIN_S)

    def _read(self) -> None:
        try:
            for frame in self._frames:
                if not self._slot.put(frame):
                    break
            getattr(self._frames, "close", bool)()
        except BaseException as error:  # whatever it is, the taker must hear of it
            self._error = error
        self._slot.close()


class StageClock:
    """When each stage took up its work, and how long it takes as a rule; threads share it."""

    def __init__(self) -> None:
        """Start with every stage at rest."""
        self.changed = threading.Condition()
        """Is notified whenever a stage takes up work or ends it."""
        self._began_ns: dict[str, int] = {}
        self._took_ns: dict[str, deque[int]] = {}

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Let the stage be at work while the block runs."""
        with self.changed:
            began_ns = self._began_ns[stage] = time.monotonic_ns()
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                del self._began_ns[stage]
                took_ns = self._took_ns.setdefault(stage, deque(maxlen=_REMEMBERED))
                took_ns.append(time.monotonic_ns() - began_ns)
                self.changed.notify_all()

    def is_working(self, stage: str) -> bool:
        """Tell whether the stage is at work now."""
        with self.changed:
            return stage in self._began_ns

    def usual_ns(self, stage: str) -> float:
        """Return the median of how long it took lately; 0 of a stage that never worked."""
        with self.changed:
            return median(self._took_ns.get(stage, (0,)))

    def left_ns(self, stage: str) -> float:
        """Guess how long its present work will still take.

        Returns:
            0 for a stage at rest or overdue, infinity for one whose first work this is.
        """
        with self.changed:
            if stage not in self._began_ns:
                return 0
            if stage not in self._took_ns:
                return math.inf
            since_ns = time.monotonic_ns() - self._began_ns[stage]
            return max(0, self.usual_ns(stage) - since_ns)

    def busy_s(self) -> dict[str, float]:
        """Seconds for which each stage at work has been at its present piece of work."""
        with self.changed:
            now_ns = time.monotonic_ns()
            return {stage: (now_ns - began_ns) / 1e9 for stage, began_ns in self._began_ns.items()}
