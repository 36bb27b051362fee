"""A live source's newest frame: one thread decodes everything, a mailbox of one slot keeps it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import suppress

from .frame import Frame

__all__ = ["Newest", "newest"]

_JOIN_S = 10.0
_LOG = logging.getLogger("saymask")


class Newest:
    """Iterates the newest frames, for one taker; older ones that nobody took are dropped.

    The source's error is raised to the taker after the last frame. Leaving the block closes it.
    """

    dropped: int
    """Frames that a newer one replaced before they were taken."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        """Start to read `frames`; see `newest`."""
        self.dropped = 0
        self._frames = frames
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._error: BaseException | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._read, name="saymask-newest", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._is_over)
            frame, self._frame = self._frame, None
            if frame is not None:
                return frame
            error, self._error = self._error, None
        raise error or StopIteration

    def close(self) -> None:
        """Stop reading and let go of the source; any thread may call it, and a taker ends."""
        with self._changed:
            self._is_over, self._frame = True, None
            self._changed.notify_all()
        self._let_go()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            _LOG.warning("a source still blocks %.0f s after it was closed; it is left", _JOIN_S)

    def __enter__(self) -> Newest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        error = None
        try:
            while not self._is_over:
                self._put(next(self._frames))
        except StopIteration:
            pass
        except BaseException as raised:  # whatever it is, the taker must hear of it
            error = raised
        self._let_go()
        with self._changed:
            if not self._is_over:
                self._is_over, self._error = True, error
            self._changed.notify_all()

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if self._is_over:
                return
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify_all()

    def _let_go(self) -> None:
        close = getattr(self._frames, "close", None)  # a list's iterator has none
        with suppress(ValueError):  # a generator that is running is closed after its next frame
            if close is not None:
                close()


def newest(frames: Iterator[Frame]) -> Newest:
    """Read `frames` in a thread from now on, as fast as they come, and keep the newest one.

    Args:
        frames: What a source's `frames()` returned; it belongs to the mailbox from now on.
    """
    return Newest(frames)
