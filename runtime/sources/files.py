"""Pictures and videos that are files: read whole, and refused when they are not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SourceError, require
from .decoding import file_pictures
from .frame import Frame
from .truncation import is_jpeg_cut, is_matroska_cut

__all__ = ["Clip", "Still", "recorded_frames"]

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Still:
    """An image file: one frame, turned upright as its EXIF record says."""

    name: str
    """Path of the file."""
    is_moving = False
    is_live = False

    def frames(self) -> Iterator[Frame]:
        """Yield the one frame; see `Source.frames`."""
        cv2 = require("cv2", extra="video")
        data = _read(self.name)
        try:
            image_bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image_bgr = None
        # Some versions of OpenCV fill up a JPEG that was cut short with grey.
        if image_bgr is None or is_jpeg_cut(data):
            raise SourceError(
                f"an image must be whole; {self.name} ({len(data)} bytes) is damaged, cut short or "
                "no image; copy it again"
            )
        image_hwc = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
        yield Frame(
            image_hwc=image_hwc,
            name=self.name,
            index=0,
            captured_ns=time.monotonic_ns(),
            time_s=None,
        )


@dataclass(frozen=True, slots=True)
class Clip:
    """A video file: its first video track, turned upright; damaged frames are left out."""

    name: str
    """Path of the file."""
    is_moving = True
    is_live = False

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that can be decoded, then report damage; see `Source.frames`."""
        av = require("av", extra="video")
        if not Path(self.name).stat().st_size:
            raise _empty(self.name)
        faults = ["shorter than its header says"] if is_matroska_cut(Path(self.name)) else []
        yield from recorded_frames(av, self.name, self.name, faults)


def recorded_frames(av: Any, name: str, reference: str, faults: list[str]) -> Iterator[Frame]:
    """Yield the frames of a recording that can be decoded, then report damage.

    Args:
        av: The library.
        name: Name of the source, without password.
        reference: What the library opens.
        faults: What is known to be wrong already; it takes what is found.

    Raises:
        SourceError: The recording is damaged, or no video.
    """
    count = 0
    try:
        with av.open(reference, timeout=_TIMEOUT_S) as container:
            for image_hwc, time_s in file_pictures(av, container, faults):
                yield Frame(
                    image_hwc=image_hwc,
                    name=name,
                    index=count,
                    captured_ns=time.monotonic_ns(),
                    time_s=time_s,
                )
                count += 1
    except (av.error.FFmpegError, OSError) as error:  # its text holds the address as it was typed
        faults.append(error.strerror or type(error).__name__)
    if faults or not count:
        raise SourceError(
            f"a video must be whole; {name} gave {count} frames: "
            f"{faults[0] if faults else 'no video track'}; copy or record it again"
        )


def _read(name: str) -> bytes:
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        raise SourceError(f"an image must be readable; {name} is not: {error}") from error
    if not data:
        raise _empty(name)
    return data


def _empty(name: str) -> SourceError:
    return SourceError(f"a source must hold data; {name} is empty; copy it again")
