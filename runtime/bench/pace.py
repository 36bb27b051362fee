"""Files played as a camera would: a frame is due at a fixed rate, whoever takes it or not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import SourceError
from ..sources.frame import Source
from ..sources.live_frames import LiveFrames, Shots

__all__ = ["Paced"]


class Paced:
    """Sources, again and again, as one live source: an open loop.

    A frame's capture time is when it was due, so a frame that comes late is old when it comes: a
    stall delays every frame that should have been taken meanwhile, not one alone (coordinated
    omission). A moment that passes before its frame is decoded goes without one, as a camera
    would drop it: its number is left out.
    """

    is_moving = True
    is_live = True

    def __init__(self, sources: Sequence[Source], rate_hz: float) -> None:
        """Play at least one source at `rate_hz`, above 0, in frames a second."""
        self.name = sources[0].name if len(sources) == 1 else f"{len(sources)} sources"
        self._sources = sources
        self._period_ns = 1e9 / rate_hz

    def frames(self) -> LiveFrames:
        """Yield frames without end, each at its moment or as soon after it as it is decoded.

        Raises:
            SourceError: A source cannot be read.
            MissingExtraError: The library that reads it is not installed.
        """
        return LiveFrames(self.name, self._shots, patience_s=0.0)

    def _shots(self, closed: threading.Event) -> Shots:
        start_ns, number = time.monotonic_ns(), 0
        for image_hwc in self._images():
            while self._due_ns(start_ns, number + 1) < time.monotonic_ns():
                yield None, self._due_ns(start_ns, number)
                number += 1
            due_ns = self._due_ns(start_ns, number)
            if closed.wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
                return
            yield image_hwc, due_ns
            number += 1

    def _due_ns(self, start_ns: int, number: int) -> int:
        return start_ns + round(number * self._period_ns)

    def _images(self) -> Iterator[np.ndarray]:
        """Decode everything, then everything again: (H, W, 3) uint8 RGB."""
        while True:
            count = 0
            for source in self._sources:
                for frame in source.frames():
                    count += 1
                    yield frame.image_hwc
            if not count:
                raise SourceError(f"a source must hold a frame; {self.name} has none")
