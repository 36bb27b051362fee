"""Frames of a source that may vanish and return: numbered, stopped at once, reconnected."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress

import numpy as np

from ..errors import SourceError
from .frame import Frame

__all__ = ["PATIENCE_S", "Connect", "LiveFrames", "Shots"]

PATIENCE_S = 300.0
"""How long a source that was there may be gone."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
_LOG = logging.getLogger("saymask")

Shots = Generator[tuple[np.ndarray | None, int], None, None]
"""Pictures, (H, W, 3) uint8 RGB or None for one that is damaged, and when each was taken.

The time is in nanoseconds on the clock of `time.monotonic_ns`.
"""
Connect = Callable[[threading.Event], Shots]
"""Opens the device and yields what it makes, until the event is set.

It ends when the source is over for good and raises SourceError when it is gone; it blocks for a
second at most after the event is set.
"""


class LiveFrames:
    """Iterates a live source's frames, and takes up the source again when it was gone.

    A source that is not there at first is an error at once. One that was there is tried again after
    pauses that double, until its patience ends.
    """

    def __init__(self, name: str, connect: Connect, patience_s: float = PATIENCE_S) -> None:
        """Prepare to read; nothing is opened before the first frame is asked for.

        Args:
            name: Name of the source, without password.
            connect: Opens it, each time that it is to be read anew.
            patience_s: Seconds without a picture after which a source that is gone is given up.
        """
        self._name = name
        self._connect = connect
        self._patience_s = patience_s
        self._closed = threading.Event()
        self._frames = self._numbered()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        return next(self._frames)

    def close(self) -> None:
        """Let go of the device; any thread may call it, and whoever waits for a frame ends."""
        self._closed.set()
        with suppress(ValueError):  # another thread is inside, where the event ends it
            self._frames.close()

    def _numbered(self) -> Generator[Frame, None, None]:
        index, start_ns = 0, None
        with closing(self._shots()) as shots:
            for image_hwc, captured_ns in shots:
                if image_hwc is not None:
                    start_ns = captured_ns if start_ns is None else start_ns
                    yield Frame(
                        image_hwc=image_hwc,
                        name=self._name,
                        index=index,
                        captured_ns=captured_ns,
                        time_s=(captured_ns - start_ns) / 1e9,
                    )
                index += start_ns is not None

    def _shots(self) -> Shots:
        """Yield what every connection gives, over its gaps."""
        seen_s, pause_s = None, _FIRST_PAUSE_S
        while not self._closed.is_set():
            try:
                with closing(self._connect(self._closed)) as shots:
                    for shot in shots:
                        if shot[0] is not None:
                            self._welcome(pause_s)
                            seen_s, pause_s = time.monotonic(), _FIRST_PAUSE_S
                        yield shot
                return
            except SourceError as error:
                if seen_s is None:
                    raise
                self._bear(error, time.monotonic() - seen_s, pause_s)
            self._closed.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _welcome(self, pause_s: float) -> None:
        if pause_s > _FIRST_PAUSE_S:
            _LOG.warning("%s is back", self._name)

    def _bear(self, error: SourceError, gone_s: float, pause_s: float) -> None:
        """Say once that the source is gone; raise when that has lasted too long."""
        if gone_s > self._patience_s:
            raise SourceError(
                f"a live source must come back within {self._patience_s:.0f} s; {self._name} "
                f"did not: {error}"
            ) from None
        if pause_s == _FIRST_PAUSE_S:
            _LOG.warning("%s; trying again for %.0f s", error, self._patience_s)
