"""Video that comes over the network: RTSP cameras, streams over HTTP, and recordings there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from ..errors import SourceError, require
from .address import redacted
from .decoding import READ_S, Pace, arrival_ns, stream_shots
from .files import recorded_frames
from .frame import Frame
from .live_frames import PATIENCE_S, LiveFrames, Shots

__all__ = ["HttpVideo", "RtspStream"]

_OPEN_S = 5.0
_SILENCE_S = 5.0
"""A stream is gone after this; over HTTP it is also what a read may block, as none can go on."""
_HLS = "hls"
# A second is enough to know the codec; the rate is of no use, and to find it would cost frames.
_ANALYSIS = {"analyzeduration": "1000000", "fpsprobesize": "0"}
# TCP first, as lost datagrams cost pictures.
_RTSP = {"rtsp_flags": "prefer_tcp", **_ANALYSIS}


class RtspStream:
    """A camera or server that speaks RTSP; user and password go before the host and stay hidden."""

    is_moving = True
    is_live = True

    def __init__(self, address: str, patience_s: float = PATIENCE_S) -> None:
        """Name the stream by its address; it may be gone for `patience_s` once it was there."""
        self.name = redacted(address)
        self._address = address
        self._patience_s = patience_s

    def frames(self) -> LiveFrames:
        """Yield every whole frame from a key frame on; see `Source.frames`."""
        return LiveFrames(self.name, self._shots, self._patience_s)

    def _shots(self, closed: threading.Event) -> Shots:
        return _shots(self._address, self.name, _RTSP, READ_S, closed)


class HttpVideo:
    """What plays at an HTTP address: a stream (MJPEG, MPEG-TS, HLS) is live, a recording is not."""

    is_moving = True

    def __init__(self, address: str, patience_s: float = PATIENCE_S) -> None:
        """Name the video by its address; a stream that was there may be gone for a while."""
        self.name = redacted(address)
        self._address = address
        self._patience_s = patience_s

    @cached_property
    def is_live(self) -> bool:
        """True unless it says how long or how large it is; the address is opened once to ask.

        Raises:
            SourceError: It cannot be opened.
            MissingExtraError: The library that reads it is not installed.
        """
        av = require("av", extra="video")
        with _opened(av, self._address, self.name, _ANALYSIS, _SILENCE_S) as container:
            is_endless = container.format.name == _HLS or container.size <= 0
            return container.duration is None and is_endless

    def frames(self) -> Iterator[Frame]:
        """Yield every whole frame; see `Source.frames`."""
        if self.is_live:
            return LiveFrames(self.name, self._shots, self._patience_s)
        av = require("av", extra="video")
        return recorded_frames(av, self.name, self._address, [])

    def _shots(self, closed: threading.Event) -> Shots:
        return _shots(self._address, self.name, _ANALYSIS, _SILENCE_S, closed)


def _shots(
    address: str, name: str, options: dict[str, str], read_s: float, closed: threading.Event
) -> Shots:
    av = require("av", extra="video")
    with _opened(av, address, name, options, read_s) as container:
        taken_ns = Pace(closed) if container.format.name == _HLS else arrival_ns
        yield from stream_shots(
            av, container, closed, name, silence_s=_SILENCE_S, taken_ns=taken_ns
        )


def _opened(av: Any, address: str, name: str, options: dict[str, str], read_s: float) -> Any:
    try:
        return av.open(address, options=options, timeout=(_OPEN_S, read_s))
    except (av.error.FFmpegError, OSError) as error:  # its text holds the password: not `from` it
        raise SourceError(
            f"a stream must be reachable; {name} is not: {error.strerror}; check the address, "
            "the password and whether a player shows it"
        ) from None
