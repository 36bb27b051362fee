"""Packets in, upright RGB pictures out: of a file all there are, of a stream whole ones alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import SourceError
from .live_frames import Shots

__all__ = ["READ_S", "Pace", "arrival_ns", "file_pictures", "stamp_ns", "stream_shots"]

READ_S = 1.0
"""What a read may block if it can be taken up again, as a stop is felt between two reads."""
_FALLBACK_RATE_HZ = 30.0
_POLL_S = 0.003
_BLIND_S = 30.0
"""How long packets may come without one whole picture; the longest usual distance of key frames."""
_MOST_WAITING = 64
_OLDEST_NS = 1_000_000_000
_LONGEST_STEP_NS = 2_000_000_000


def file_pictures(av: Any, container: Any, faults: list[str]) -> Iterator[tuple[np.ndarray, float]]:
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


def stream_shots(
    av: Any,
    container: Any,
    closed: threading.Event,
    name: str,
    *,
    silence_s: float,
    taken_ns: Callable[[Any], int],
) -> Shots:
    """Decode the first video track of a stream that may begin and break anywhere.

    Pictures come from a key frame on. After a damaged packet the next key frame is waited for, as
    the pictures before it lean on what was lost; each of those is yielded as None. Times never run
    backwards, though packets of a reordered stream come in another order than their pictures.

    Args:
        av: The library.
        container: An open stream, with a read timeout no longer than `silence_s`.
        closed: Ends it.
        name: Name of the source, for messages.
        silence_s: Seconds without a packet after which the stream is gone.
        taken_ns: Says when a packet was taken: `arrival_ns`, `stamp_ns` or a `Pace`.

    Raises:
        SourceError: The stream is gone, or holds no video.
    """
    if not container.streams.video:
        raise SourceError(f"a stream must hold video; {name} holds none; check the address")
    stream = container.streams.video[0]
    # Threads by frame would hold back a picture each; threads by slice break those cut in two.
    stream.thread_type = "NONE"
    waiting_ns: dict[int | None, int] = {}
    is_whole, last_ns, seen_s = False, 0, time.monotonic()
    for packet in _packets(av, container, stream, closed, name, silence_s):
        packet_ns = taken_ns(packet)
        is_whole = not packet.is_corrupt and (is_whole or packet.is_keyframe)
        if len(waiting_ns) > _MOST_WAITING:  # these were never answered by a picture
            waiting_ns.clear()
        waiting_ns[packet.pts] = packet_ns
        try:
            pictures = packet.decode() if is_whole else ()
        except av.error.FFmpegError:
            pictures, is_whole = (), False
        if not is_whole:
            yield None, packet_ns
        for picture in pictures:
            # Some servers cut each key frame in two; nothing would ever follow a whole one there.
            is_whole = is_whole and (packet.is_keyframe or not picture.is_corrupt)
            image_hwc = None if picture.is_corrupt else _upright(picture)
            last_ns = max(last_ns, waiting_ns.pop(picture.pts, packet_ns))
            seen_s = time.monotonic() if image_hwc is not None else seen_s
            yield image_hwc, last_ns
        if time.monotonic() - seen_s > _BLIND_S:
            raise SourceError(f"a stream must hold key frames; {name} shows none; set its interval")


def arrival_ns(packet: Any) -> int:
    """Now: of a stream that says nothing of our clock."""
    return time.monotonic_ns()


def stamp_ns(packet: Any) -> int:
    """When the driver filled the packet; now, if its clock is plainly another one."""
    now_ns = time.monotonic_ns()
    taken_ns = _nanoseconds(packet.pts or 0, packet)
    return taken_ns if 0 <= now_ns - taken_ns < _OLDEST_NS else now_ns


class Pace:
    """Holds packets that come in bursts, as the segments of HLS do, until they are due."""

    def __init__(self, closed: threading.Event) -> None:
        """Let the first packet pass at once; `closed` ends a wait."""
        self._closed = closed
        self._start_ns = 0
        self._last_ns = -_LONGEST_STEP_NS

    def __call__(self, packet: Any) -> int:
        """Wait until the packet is due to be decoded; return when its picture is due."""
        now_ns = time.monotonic_ns()
        shown_ns = _nanoseconds(packet.pts or 0, packet)
        decoded_ns = shown_ns if packet.dts is None else _nanoseconds(packet.dts, packet)
        is_next = 0 <= decoded_ns - self._last_ns < _LONGEST_STEP_NS
        if not is_next or now_ns - self._start_ns - decoded_ns > _OLDEST_NS:
            self._start_ns = now_ns - decoded_ns
        self._last_ns = decoded_ns
        self._closed.wait(max(0, self._start_ns + decoded_ns - now_ns) / 1e9)
        return self._start_ns + shown_ns


def _nanoseconds(ticks: int, packet: Any) -> int:
    return int(ticks * packet.time_base * 1_000_000_000)


def _packets(
    av: Any, container: Any, stream: Any, closed: threading.Event, name: str, silence_s: float
) -> Iterator[Any]:
    """Yield packets; a read that times out is taken up again until the silence is too long."""
    heard_s = time.monotonic()
    while not closed.is_set():
        try:
            for packet in container.demux(stream):
                heard_s = time.monotonic()
                yield packet
                if not packet.size:  # the end: it makes the decoder give what it holds back
                    raise SourceError(f"a live source must go on; {name} ended")
                if closed.is_set():
                    return
        except av.error.BlockingIOError:
            closed.wait(_POLL_S)
        except (av.error.ExitError, av.error.TimeoutError):
            pass
        except av.error.FFmpegError as error:  # its text may hold the address with its password
            raise SourceError(f"a live source must go on; {name} broke: {error.strerror}") from None
        if time.monotonic() - heard_s > silence_s:
            raise SourceError(f"a live source must go on; {name} is silent for {silence_s:.0f} s")


def _upright(picture: Any) -> np.ndarray:
    """Turn a picture as its display matrix says; (H, W, 3) uint8 RGB."""
    image_hwc = picture.to_ndarray(format="rgb24")
    turns = round(getattr(picture, "rotation", 0) / 90)
    return np.ascontiguousarray(np.rot90(image_hwc, turns))
