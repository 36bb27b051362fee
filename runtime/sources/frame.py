"""One picture with the time it was taken, and what every source of pictures offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Frame", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One picture and where it comes from."""

    image_hwc: np.ndarray
    """(H, W, 3) uint8 RGB, upright; the size may change within a live source."""
    name: str
    """Name of its source."""
    index: int
    """Its number in the source, from 0; a number that is left out is a frame nobody took."""
    captured_ns: int
    """When it was taken, on the clock of `time.monotonic_ns`; of a file, when it was decoded."""
    time_s: float | None
    """Seconds since the source's first frame; None for a still."""


class Source(Protocol):
    """Something that yields frames; nothing is opened before the first one is asked for."""

    @property
    def name(self) -> str:
        """What the user would call it, for example the path of a file; it holds no password."""
        ...

    @property
    def is_moving(self) -> bool:
        """True when its frames follow each other in time."""
        ...

    @property
    def is_live(self) -> bool:
        """True when frames come whether or not somebody takes them; only the newest one counts."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Yield its frames in order; closing the iterator lets go of the file or the device.

        A live source returns `live_frames.LiveFrames`, which any thread may close.

        Raises:
            SourceError: It cannot be read, or no further than the frames that came before.
            MissingExtraError: The library that reads it is not installed.
        """
        ...
