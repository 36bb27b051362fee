"""What the live page shows: the newest frame, drawn once at most, and figures of the stream."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ..errors import require
from ..masks import Masks
from ..overlay import draw
from ..sources import Frame
from ..timing import percentiles_ms

__all__ = ["Feed", "Picture"]

_WINDOW_NS = 5_000_000_000
_MOST_SAMPLES = 2048
_LEAST_BETWEEN_NS = 1_000_000_000 // 30
_LONGEST_SIDE = 1920
_QUALITY = 85


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A frame with its masks, ready to be sent."""

    number: int
    """Counts the frames that were put, from 1."""
    jpeg: bytes
    """JPEG file."""
    drawn_ns: int
    """When drawing began, on the clock of `time.monotonic_ns`."""

    @property
    def rest_s(self) -> float:
        """Seconds until a newer one may be drawn."""
        return max(0, self.drawn_ns + _LEAST_BETWEEN_NS - time.monotonic_ns()) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """One frame's figures."""

    written_ns: int
    """When its masks came, on the clock of `time.monotonic_ns`."""
    age_ms: float
    """From its capture until then."""
    timings_ms: tuple[tuple[str, float], ...]
    """See `Masks.timings_ms`."""


class Feed:
    """Takes frames from one thread and shows the newest to another."""

    def __init__(self) -> None:
        """Begin without a frame."""
        self._lock = threading.Lock()
        self._newest: tuple[int, Frame, Masks] | None = None
        self._samples: deque[_Sample] = deque(maxlen=_MOST_SAMPLES)
        self._dropped = 0
        self._picture: Picture | None = None

    def put(self, frame: Frame, masks: Masks) -> None:
        """Take a frame and its masks, whose arrays must not change any more; nothing is drawn."""
        now_ns = time.monotonic_ns()
        age_ms = (now_ns - frame.captured_ns) / 1e6
        sample = _Sample(written_ns=now_ns, age_ms=age_ms, timings_ms=masks.timings_ms)
        with self._lock:
            number, last, _ = self._newest or (0, frame, masks)
            if number and frame.name == last.name:
                self._dropped += max(0, frame.index - last.index - 1)
            self._newest = number + 1, frame, masks
            self._samples.append(sample)

    @property
    def count(self) -> int:
        """Number of frames so far, which is the newest one's number."""
        newest = self._newest
        return newest[0] if newest else 0

    def picture(self) -> Picture | None:
        """Draw the newest frame, unless that is done or the last picture still rests.

        So there are 30 a second at most. One thread at a time may call this. A frame whose
        longer side is over 1920 pixels is made smaller by a whole factor first; the legend is
        left to the page.

        Returns:
            The picture; None before the first frame.

        Raises:
            MissingExtraError: OpenCV is not installed.
        """
        newest, last = self._newest, self._picture
        if not newest or (last and (last.number == newest[0] or last.rest_s)):
            return last
        now_ns, (number, frame, masks) = time.monotonic_ns(), newest
        self._picture = Picture(number=number, jpeg=_jpeg(frame, masks), drawn_ns=now_ns)
        return self._picture

    def scores(self) -> dict[str, float]:
        """Give each label of the newest masks its best score."""
        best: dict[str, float] = {}
        if self._newest:
            masks = self._newest[2]
            for label, score in zip(masks.labels, masks.scores.tolist(), strict=True):
                best[label] = max(round(score, 3), best.get(label, 0.0))
        return best

    def figures(self) -> dict[str, Any]:
        """Sum up the last five seconds.

        Returns:
            "frames" that came and those "dropped" since the start, by gaps in their indices;
            "silent_ms" since the last one; of the window "fps", "age_ms" (from capture to masks;
            "p50" and "p90") and "stages_ms" (medians). None where there is nothing to tell.
        """
        now_ns = time.monotonic_ns()
        with self._lock:
            samples, dropped, count = list(self._samples), self._dropped, self.count
        recent = [sample for sample in samples if now_ns - sample.written_ns < _WINDOW_NS]
        silent_ms = round((now_ns - samples[-1].written_ns) / 1e6) if samples else None
        return {
            "frames": count,
            "dropped": dropped,
            "silent_ms": silent_ms,
            "fps": _rate_hz(recent),
            "age_ms": _age_ms(recent),
            "stages_ms": _stages_ms(recent),
        }


def _rate_hz(samples: list[_Sample]) -> float | None:
    if len(samples) < 2:
        return None
    seconds = (samples[-1].written_ns - samples[0].written_ns) / 1e9
    return round((len(samples) - 1) / max(seconds, 1e-9), 1)


def _age_ms(samples: list[_Sample]) -> dict[str, float] | None:
    if not samples:
        return None
    ages_ms = percentiles_ms([sample.age_ms for sample in samples])
    return {"p50": round(ages_ms.p50, 1), "p90": round(ages_ms.p90, 1)}


def _stages_ms(samples: list[_Sample]) -> dict[str, float]:
    stages_ms: dict[str, list[float]] = {}
    for sample in samples:
        for stage, ms in sample.timings_ms:
            stages_ms.setdefault(stage, []).append(ms)
    return {stage: round(median(laps_ms), 1) for stage, laps_ms in stages_ms.items()}


def _jpeg(frame: Frame, masks: Masks) -> bytes:
    cv2 = require("cv2", extra="video")
    image_hwc, boolean = frame.image_hwc, masks.boolean
    step = -(-max(image_hwc.shape[:2]) // _LONGEST_SIDE)
    if step > 1:
        height, width = (side // step for side in image_hwc.shape[:2])
        image_hwc = cv2.resize(image_hwc, (width, height), interpolation=cv2.INTER_AREA)
        small = boolean[:, ::step, ::step][:, :height, :width]
        masks = Masks.of(np.ascontiguousarray(small), masks.scores, masks.labels)
    picture_hwc = draw(image_hwc, masks)
    zoom = picture_hwc.shape[1] // image_hwc.shape[1]
    bgr = picture_hwc[: zoom * image_hwc.shape[0], :, ::-1]
    return cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))[1].tobytes()
