"""What the user points at, as frames: an image, a folder of images, a glob or a video."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import SourceError, require
from .truncation import is_jpeg_cut, is_matroska_cut

__all__ = ["OPENERS", "Clip", "Frame", "Source", "Still", "open_sources"]

_WILDCARDS = "*?["
_FALLBACK_RATE_HZ = 30.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One picture and where it comes from."""

    image_hwc: np.ndarray
    """(H, W, 3) uint8 RGB, upright."""
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
        """What the user would call it, for example the path of a file."""
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
        """Yield its frames in order.

        Raises:
            SourceError: It cannot be read, or no further than the frames that came before.
            MissingExtraError: The library that reads it is not installed.
        """
        ...


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
        count, faults = 0, []
        try:
            with av.open(self.name) as container:
                for image_hwc, time_s in _pictures(av, container, faults):
                    yield Frame(
                        image_hwc=image_hwc,
                        name=self.name,
                        index=count,
                        captured_ns=time.monotonic_ns(),
                        time_s=time_s,
                    )
                    count += 1
        except (av.error.FFmpegError, OSError) as error:
            faults.append(str(error))
        if is_matroska_cut(Path(self.name)):
            faults.append("shorter than its header says")
        if faults or not count:
            raise SourceError(
                f"a video must be whole; {self.name} gave {count} frames: "
                f"{faults[0] if faults else 'no video track'}; copy or record it again"
            )


OPENERS = {
    ".bmp": Still,
    ".jpeg": Still,
    ".jpg": Still,
    ".png": Still,
    ".tif": Still,
    ".tiff": Still,
    ".webp": Still,
    ".avi": Clip,
    ".m4v": Clip,
    ".mkv": Clip,
    ".mov": Clip,
    ".mp4": Clip,
    ".mpg": Clip,
    ".ts": Clip,
    ".webm": Clip,
}
"""Makes a source of a name, by the suffix of a file or by the "scheme://" of an address."""


def open_sources(reference: str) -> list[Source]:
    """Find what the user points at.

    Args:
        reference: An image, a video, a folder (its images alone) or a glob ("**" descends).

    Returns:
        At least one source, files in natural order (2.png before 10.png). None is opened yet.

    Raises:
        SourceError: There is nothing, or nothing that can be read.
    """
    path = Path(reference)
    if path.is_dir():
        found, known = path.iterdir(), {key for key in OPENERS if OPENERS[key] is Still}
    elif path.exists() or not any(mark in reference for mark in _WILDCARDS):
        return [_opener(reference)(reference)]
    else:
        found, known = Path(path.anchor).glob(str(path.relative_to(path.anchor))), set(OPENERS)
    names = [str(p) for p in found if p.suffix.lower() in known and not p.name.startswith(".")]
    if not names:
        raise SourceError(
            f"a source must hold images; {reference} has none; "
            f"name a file, a folder or a glob of {', '.join(OPENERS)}"
        )
    return [_opener(name)(name) for name in sorted(names, key=_natural)]


def _opener(name: str) -> Callable[[str], Source]:
    key = _key(name)
    if key not in OPENERS:
        raise SourceError(f"a source must be one of {', '.join(OPENERS)}; got {name}")
    if "://" not in name and not Path(name).exists():
        raise SourceError(f"a source must exist; {name} does not; check the path")
    return OPENERS[key]


def _key(name: str) -> str:
    scheme, mark, _ = name.partition("://")
    return scheme + mark if mark else Path(name).suffix.lower()


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort numbers by value; split at digits, text and numbers take turns."""
    return [int(p) if p.isdigit() else p for p in re.split(r"([0-9]+)", name.casefold())], name


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


def _pictures(av: Any, container: Any, faults: list[str]) -> Iterator[tuple[np.ndarray, float]]:
    """Decode the first video track, and go on after what cannot be decoded.

    Args:
        av: The library.
        container: An open file.
        faults: Takes what is wrong with the file.

    Yields:
        (H, W, 3) uint8 RGB upright and its time in seconds since the first picture.
    """
    if not container.streams.video:
        return
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate_hz = float(stream.average_rate or _FALLBACK_RATE_HZ)
    start_s = None
    index = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:  # decoding it could cost whole frames that wait in the decoder
            faults.append("a packet is cut short")
            continue
        try:
            pictures = packet.decode()
        except av.error.InvalidDataError as error:
            faults.append(str(error))
            continue
        for picture in pictures:
            time_s = index / rate_hz if picture.time is None else picture.time
            start_s = time_s if start_s is None else start_s
            yield _upright(picture), time_s - start_s
            index += 1


def _upright(picture: Any) -> np.ndarray:
    """Turn a picture as its display matrix says; (H, W, 3) uint8 RGB."""
    image_hwc = picture.to_ndarray(format="rgb24")
    turns = round(getattr(picture, "rotation", 0) / 90)
    return np.ascontiguousarray(np.rot90(image_hwc, turns))
