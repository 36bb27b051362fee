"""Where masks go: pictures, a video, mask images or lines of JSON; what is written is whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..errors import OutputError, require
from ..masks import Masks
from ..overlay import draw
from ..sources import Frame
from .records import records

__all__ = ["JsonLines", "MaskPictures", "OverlayPicture", "OverlayVideo", "Sink", "distinct_stems"]

_TICKS_HZ = 90_000
_NOMINAL_RATE_HZ = 30
_NO_NAME = re.compile(r"[^\w./\\ -]+")
_FRAGMENTED = {"movflags": "hybrid_fragmented"}
_QUALITY = {"crf": "20", "preset": "veryfast", "g": "60"}
"""A fragment ends before each key frame, so a killed process loses two seconds or so."""


class Sink:
    """Takes the masks of one source, frame by frame; leaving its block completes the output."""

    def write(self, frame: Frame, masks: Masks) -> None:
        """Take a frame and its masks.

        Raises:
            OutputError: They cannot be written.
            MissingExtraError: The library that writes them is not installed.
        """
        raise NotImplementedError

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        """Complete what is not complete after every frame."""


class OverlayPicture(Sink):
    """One PNG with the masks drawn on the frame."""

    def __init__(self, stem: Path) -> None:
        """Write to `stem`.overlay.png."""
        self._path = _suffixed(stem, ".overlay.png")

    def write(self, frame: Frame, masks: Masks) -> None:
        """Write the picture; see `Sink.write`."""
        _write_png(self._path, draw(frame.image_hwc, masks)[..., ::-1])


class MaskPictures(Sink):
    """One PNG for each mask, 255 inside and 0 outside, numbered from 1 in the prompts' order."""

    def __init__(self, stem: Path) -> None:
        """Write to `stem`.mask-1.png, and for videos to `stem`.000000.mask-1.png."""
        self._stem = stem

    def write(self, frame: Frame, masks: Masks) -> None:
        """Write the masks of a frame; see `Sink.write`."""
        moment = "" if frame.time_s is None else f".{frame.index:06d}"
        for number, mask_hw in enumerate(masks.boolean, start=1):
            path = _suffixed(self._stem, f"{moment}.mask-{number}.png")
            _write_png(path, mask_hw.astype(np.uint8) * 255)


class JsonLines(Sink):
    """One line of JSON for each mask, as soon as it is known."""

    def __init__(self, stream: TextIO) -> None:
        """Write to an open text stream."""
        self._stream = stream

    def write(self, frame: Frame, masks: Masks) -> None:
        """Write a line for each mask; see `Sink.write`.

        Raises:
            BrokenPipeError: Nobody reads the stream any more.
        """
        try:
            for record in records(frame, masks):
                self._stream.write(json.dumps(record) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(
                f"JSON lines must be written, which failed: {error}; check where they go"
            ) from error


class OverlayVideo(Sink):
    """One MP4 (H.264) with the masks drawn on every frame, at the source's own times.

    It appears under its name when the block ends, also when the source failed or the user
    interrupted: then it holds the frames so far. A process that is killed leaves a file of the
    same name with a dot before and ".partial" behind, which players read up to its last fragment.
    Pictures of another size than the first, of a camera that was switched or with more words in
    the legend, are shrunk into it.
    """

    def __init__(self, stem: Path) -> None:
        """Write to `stem`.overlay.mp4; nothing is made before the first frame."""
        self._path = _suffixed(stem, ".overlay.mp4")
        self._partial = _partial(self._path)
        self._container: Any = None
        self._stream: Any = None
        self._last_tick = -1

    def write(self, frame: Frame, masks: Masks) -> None:
        """Append a frame; see `Sink.write`."""
        av = require("av", extra="video")
        picture_hwc = _even(draw(frame.image_hwc, masks))
        if self._container:
            picture_hwc = _fitted(picture_hwc, (self._stream.height, self._stream.width))
        picture = av.VideoFrame.from_ndarray(picture_hwc, format="rgb24")
        picture.pts = max(self._last_tick + 1, round((frame.time_s or 0.0) * _TICKS_HZ))
        picture.time_base = Fraction(1, _TICKS_HZ)
        with _reported(self._path, av.error.FFmpegError):
            if not self._container:
                self._container = self._open(av, picture.width, picture.height)
            self._container.mux(self._stream.encode(picture))
        self._last_tick = picture.pts

    def __exit__(self, *_: object) -> None:
        """Complete the file and give it its name; see `Sink.write`."""
        try:
            if self._container:
                self._complete()
        finally:
            _drop(self._partial)

    def _open(self, av: Any, width: int, height: int) -> Any:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        container = av.open(str(self._partial), "w", format="mp4", options=_FRAGMENTED)
        self._stream = container.add_stream("h264", rate=_NOMINAL_RATE_HZ, options=_QUALITY)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS_HZ)
        return container

    def _complete(self) -> None:
        av = require("av", extra="video")
        with _reported(self._path, av.error.FFmpegError):
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._partial.replace(self._path)


def distinct_stems(names: Sequence[str]) -> list[str]:
    """Shorten the paths of sources to names for outputs, as far as they stay distinct.

    "a/cat.jpg" becomes "cat"; beside "a/cat.png" it becomes "cat.jpg", beside "b/cat.jpg"
    "a-cat.jpg". What file systems or shells read otherwise becomes "-".
    """
    paths = [Path(_NO_NAME.sub("-", name)) for name in names]
    depth = max((len(path.parts) for path in paths), default=1)
    stems = [path.stem for path in paths]
    for kept in range(1, depth + 1):
        if len(set(stems)) == len(stems):
            break
        stems = ["-".join(path.parts[-kept:]) for path in paths]
    return stems


def _even(picture_hwc: np.ndarray) -> np.ndarray:
    """Repeat the last row or column where H.264 needs even sides."""
    height, width = picture_hwc.shape[:2]
    return np.pad(picture_hwc, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _fitted(picture_hwc: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Shrink a picture of another size, as far as it must be, into the top left corner."""
    height, width = picture_hwc.shape[:2]
    if (height, width) == size_hw:
        return picture_hwc
    cv2 = require("cv2", extra="video")
    scale = min(1.0, size_hw[0] / height, size_hw[1] / width)
    size_wh = (max(1, int(width * scale)), max(1, int(height * scale)))
    page = np.zeros((*size_hw, 3), np.uint8)
    page[: size_wh[1], : size_wh[0]] = cv2.resize(
        picture_hwc, size_wh, interpolation=cv2.INTER_AREA
    )
    return page


def _write_png(path: Path, picture_bgr: np.ndarray) -> None:
    cv2 = require("cv2", extra="video")
    _, data = cv2.imencode(".png", picture_bgr)
    partial = _partial(path)
    try:
        with _reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(path)
    finally:
        _drop(partial)


def _suffixed(stem: Path, suffix: str) -> Path:
    """Append to a name that may hold dots itself."""
    return stem.with_name(stem.name + suffix)


def _partial(path: Path) -> Path:
    """Name of a file that is being written; it takes its own name once it is whole."""
    return path.with_name(f".{path.name}.partial")


def _drop(partial: Path) -> None:
    """Delete what is left of a file that was not completed."""
    with suppress(OSError):
        partial.unlink()


@contextmanager
def _reported(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn the system's errors, and those of other `kinds`, into an OutputError."""
    try:
        yield
    except (OSError, *kinds) as error:
        raise OutputError(
            f"{path} must be written, which failed: {error}; check the folder's rights and the "
            "free space"
        ) from error
