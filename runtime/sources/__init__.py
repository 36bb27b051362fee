"""What the user points at, as frames: pictures, recordings, cameras, streams, a drawn world."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from ..errors import MissingExtraError, SourceError
from .address import redacted
from .camera import Camera
from .files import Clip, Still
from .frame import Frame, Source
from .gstreamer import CsiCamera, Pipeline
from .mcap import BAG_INDEX, CameraTopic, split_topic
from .network import HttpVideo, RtspStream

__all__ = ["GROUP", "OPENERS", "Clip", "Frame", "Source", "Still", "open_sources"]

GROUP = "saymask.sources"
"""Entry points by which other floors offer a "scheme://": modules with `open_source(reference)`."""

_WILDCARDS = "*?["
_CAMERA = "/dev/video"
_PIPELINE = "gst:"

OPENERS = {
    ".bmp": Still,
    ".jpeg": Still,
    ".jpg": Still,
    ".png": Still,
    ".tif": Still,
    ".tiff": Still,
    ".webp": Still,
    ".avi": Clip,
    ".db3": CameraTopic,
    ".m4v": Clip,
    ".mcap": CameraTopic,
    ".mkv": Clip,
    ".mov": Clip,
    ".mp4": Clip,
    ".mpg": Clip,
    ".ts": Clip,
    ".webm": Clip,
    _CAMERA: Camera,
    "csi://": CsiCamera,
    _PIPELINE: Pipeline,
    "http://": HttpVideo,
    "https://": HttpVideo,
    "rtsp://": RtspStream,
    "rtsps://": RtspStream,
    "v4l2://": Camera,
}
"""Makes a source of a reference, by the suffix of a file or the "scheme://" of an address."""


def open_sources(reference: str) -> list[Source]:
    """Find what the user points at.

    Args:
        reference: An image, a video, a folder (its images alone), a glob ("**" descends), a
            recording of ROS with "#" and a topic, a camera ("0", "/dev/video0", "v4l2://",
            "csi://"), an address, or "gst:" and a pipeline.

    Returns:
        At least one source, files in natural order (2.png before 10.png). None is opened yet.

    Raises:
        SourceError: There is nothing, or nothing that can be read.
        UsageError: An address has an option that is unknown or makes no sense.
    """
    if not _is_file(reference):
        return [_opener(reference)(reference)]
    path = _path(reference)
    if (path / BAG_INDEX).is_file():
        return [CameraTopic(reference)]
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


def _opener(reference: str) -> Callable[[str], Source]:
    key = _key(reference)
    if _is_file(reference) and not _path(reference).exists():
        raise SourceError(f"a source must exist; {reference} does not; check the path")
    if key in OPENERS:
        return OPENERS[key]
    offered = {f"{entry.name}://": entry for entry in entry_points(group=GROUP)}
    if key not in offered:
        known = ", ".join((*OPENERS, *sorted(offered)))
        raise SourceError(f"a source must be one of {known}; got {redacted(reference)}")
    try:
        return offered[key].load().open_source
    except ImportError as error:
        raise MissingExtraError(
            f"{key} needs a library that is not installed or does not load ({error}); "
            "run: pip install 'saymask[train]'"
        ) from error


def _is_file(reference: str) -> bool:
    """True unless it names a device or an address; a folder called 0 is "./0"."""
    return not _key(reference).endswith(("://", _PIPELINE, _CAMERA))


def _key(reference: str) -> str:
    if reference.isdecimal() or reference.startswith(_CAMERA):
        return _CAMERA
    if reference.startswith(_PIPELINE):
        return _PIPELINE
    scheme, mark, _ = reference.partition("://")
    return scheme.lower() + mark if mark else _path(reference).suffix.lower()


def _path(reference: str) -> Path:
    """The file or folder itself, without the topic that stands behind a recording."""
    path, _ = split_topic(reference)
    return path if path.exists() else Path(reference)


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort numbers by value; split at digits, text and numbers take turns."""
    return [int(p) if p.isdigit() else p for p in re.split(r"([0-9]+)", name.casefold())], name
