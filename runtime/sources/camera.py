"""A camera that Linux knows as /dev/videoN: a webcam, or whatever else speaks V4L2."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from ..errors import SourceError, require
from .address import positive_number, size_hw, split_address
from .decoding import READ_S, stamp_ns, stream_shots
from .live_frames import LiveFrames, Shots

__all__ = ["Camera"]

_SILENCE_S = 3.0
_OPEN_S = 5.0
# FFmpeg's AVFMT_FLAG_NONBLOCK: without it a read of an unplugged camera never returns.
_NONBLOCK = "4"
_READERS = {"size": size_hw, "fps": positive_number, "format": str}


class Camera:
    """A V4L2 device: `0`, `/dev/video0` or `v4l2:///dev/video0?size=1280x720&fps=30&format=mjpeg`.

    Without options the driver chooses; `format` is FFmpeg's name, as mjpeg, yuyv422 or h264.
    """

    is_moving = True
    is_live = True

    def __init__(self, reference: str) -> None:
        """Name the camera; see the class.

        Raises:
            UsageError: An option is unknown or makes no sense.
        """
        self.name = reference
        address = reference if "://" in reference else f"v4l2://{reference}"
        place, self._options = split_address(address, _READERS)
        self._device = Path(f"/dev/video{place}" if place.isdecimal() else place)

    def frames(self) -> LiveFrames:
        """Yield every frame that the camera takes; see `Source.frames`."""
        return LiveFrames(self.name, self._shots)

    def _shots(self, closed: threading.Event) -> Shots:
        av = require("av", extra="video")
        _check(self._device)
        try:
            container = av.open(
                str(self._device),
                format="v4l2",
                options=_ffmpeg_options(**self._options),
                timeout=(_OPEN_S, READ_S),
            )
        except av.error.FFmpegError as error:
            raise SourceError(
                f"a camera must give video; {self._device} does not: {error.strerror}; close what "
                "else uses it, or see `v4l2-ctl --list-formats-ext` for its sizes and rates"
            ) from error
        with container:
            yield from stream_shots(
                av, container, closed, self.name, silence_s=_SILENCE_S, taken_ns=stamp_ns
            )


def _ffmpeg_options(
    size: tuple[int, int] | None = None, fps: float | None = None, format: str | None = None
) -> dict[str, str]:
    options = {"fflags": _NONBLOCK}
    if size:
        options["video_size"] = f"{size[1]}x{size[0]}"
    if fps:
        options["framerate"] = f"{fps:g}"
    if format:
        options["input_format"] = format
    return options


def _check(device: Path) -> None:
    """Say what is wrong with a device in words that FFmpeg does not have."""
    try:
        is_device = stat.S_ISCHR(device.stat().st_mode)
    except OSError as error:
        raise SourceError(
            f"a camera must be plugged in; {device} is not there ({error.strerror}); "
            "`v4l2-ctl --list-devices` names those that are"
        ) from error
    if not is_device:
        raise SourceError(f"a camera must be a device; {device} is a file; name /dev/video0")
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceError(
            f"a camera must be ours to open; {device} is not; add yourself to the group video"
        )
