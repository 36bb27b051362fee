"""A frame with its masks drawn on it, and a legend below that says what each color means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import require
from .masks import Masks

__all__ = ["draw"]

PALETTE_RGB = (
    (0, 168, 255),
    (255, 107, 53),
    (64, 210, 110),
    (255, 200, 20),
    (186, 104, 255),
    (255, 92, 160),
    (0, 206, 190),
    (166, 220, 48),
)
"""One color for each phrase in turn; neighbours differ in hue and in lightness."""

_SMALLEST_SIDE = 512
_MOST_ZOOM = 16
_TINT = 0.45
_PAPER_RGB = (22, 24, 29)
_INK_RGB = (236, 239, 244)
_FAINT_RGB = (150, 156, 168)
_SCORE_WIDTH = "  0.00"

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One phrase in the legend."""

    phrase: str
    """What was asked for."""
    score: str
    """How sure the answer is, as it is printed."""
    color_rgb: Rgb
    """Color of its masks."""


def draw(frame_hwc: np.ndarray, masks: Masks) -> np.ndarray:
    """Draw masks on a frame as translucent, outlined areas, with a legend in a strip below.

    A frame whose longer side is under 512 pixels is enlarged by a whole factor first, so that the
    words stay readable.

    Args:
        frame_hwc: (H, W, 3) uint8 RGB.
        masks: Masks of that frame; those with the same label share a color.

    Returns:
        (k * H + legend, k * W, 3) uint8 RGB with a whole k >= 1. Its size depends on the frame
        and the labels alone, so the pictures of a video are all of one size.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = require("cv2", extra="video")
    height, width = frame_hwc.shape[:2]
    zoom = min(_MOST_ZOOM, -(-_SMALLEST_SIDE // max(height, width)))
    size_wh = (zoom * width, zoom * height)
    picture = cv2.resize(frame_hwc, size_wh, interpolation=cv2.INTER_CUBIC)
    entries = _entries(masks)
    for mask_hw, label in zip(masks.boolean, masks.labels, strict=True):
        _paint(cv2, picture, mask_hw, entries[label].color_rgb)
    return np.concatenate([picture, _legend(cv2, list(entries.values()), size_wh)])


def _entries(masks: Masks) -> dict[str, _Entry]:
    """Give each label a color and its best score."""
    best: dict[str, float] = {}
    for label, score in zip(masks.labels, masks.scores.tolist(), strict=True):
        best[label] = max(score, best.get(label, 0.0))
    return {
        label: _Entry(
            phrase=label,
            score=f"{score:.2f}" if score else "none",
            color_rgb=PALETTE_RGB[number % len(PALETTE_RGB)],
        )
        for number, (label, score) in enumerate(best.items())
    }


def _paint(cv2: Any, picture: np.ndarray, mask_hw: np.ndarray, color_rgb: Rgb) -> None:
    """Tint the mask's area of the picture and outline it, in place."""
    height, width = picture.shape[:2]
    area = cv2.resize(mask_hw.astype(np.uint8) * 255, (width, height))
    zoom = width // mask_hw.shape[1]
    if zoom > 1:
        # The steps of enlarged pixels become smooth curves, as they are in the enlarged frame.
        area = cv2.GaussianBlur(area, (0, 0), 0.6 * zoom)
        area = cv2.threshold(area, 127, 255, cv2.THRESH_BINARY)[1]
    left, top, box_width, box_height = cv2.boundingRect(area)
    if not box_width:
        return
    inside = np.s_[top : top + box_height, left : left + box_width]
    plain = np.full_like(picture[inside], color_rgb)
    tinted = cv2.addWeighted(picture[inside], 1 - _TINT, plain, _TINT, 0)
    cv2.copyTo(tinted, area[inside], picture[inside])
    outlines, _ = cv2.findContours(area, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    line = max(2, round(max(height, width) / 480))
    cv2.polylines(picture, outlines, True, _PAPER_RGB, line + 2, cv2.LINE_AA)
    cv2.polylines(picture, outlines, True, color_rgb, line, cv2.LINE_AA)


def _legend(cv2: Any, entries: list[_Entry], size_wh: tuple[int, int]) -> np.ndarray:
    """Set a chip, the phrase and its score for each entry, in rows as wide as the picture."""
    width, unit = size_wh[0], max(1.0, max(size_wh) / 960)
    gap, chip, row = (round(length * unit) for length in (12, 12, 24))
    font = dict(fontFace=cv2.FONT_HERSHEY_SIMPLEX, fontScale=0.5 * unit, thickness=round(unit))

    def extent(text: str) -> int:
        return cv2.getTextSize(text, **font)[0][0]

    def write(text: str, left: int, base: int, color_rgb: Rgb) -> None:
        cv2.putText(strip, text, (left, base), color=color_rgb, lineType=cv2.LINE_AA, **font)

    room = width - 2 * gap - chip - gap // 2 - extent(_SCORE_WIDTH)
    texts = [_shortened(entry.phrase, room, extent) for entry in entries]
    lefts, rows = _flow([extent(text) + width - 2 * gap - room for text in texts], width, gap)
    strip = np.full((row * (rows[-1] + 1) + gap if rows else 0, width, 3), _PAPER_RGB, np.uint8)
    for entry, text, left, number in zip(entries, texts, lefts, rows, strict=True):
        base = gap // 2 + row * number + round(17 * unit)
        strip[base - chip : base, left : left + chip] = entry.color_rgb
        left += chip + gap // 2
        write(text, left, base, _INK_RGB)
        write(entry.score, left + extent(f"{text}  "), base, _FAINT_RGB)
    return strip


def _flow(widths: list[int], room: int, gap: int) -> tuple[list[int], list[int]]:
    """Set boxes side by side, in a new row where one doesn't fit; left edge and row of each."""
    lefts, rows = [], []
    left, row = gap, 0
    for width in widths:
        if left > gap and left + width + gap > room:
            left, row = gap, row + 1
        lefts.append(left)
        rows.append(row)
        left += width + 2 * gap
    return lefts, rows


def _shortened(text: str, room: int, extent: Callable[[str], int]) -> str:
    """Cut a text at its end until it fits the room."""
    if extent(text) <= room:
        return text
    while text and extent(f"{text}...") > room:
        text = text[:-1].rstrip()
    return f"{text}..."
