"""A page of pictures, phrases and masks that a person can judge at a glance."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np

from ...runtime.errors import UsageError

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.42
_LETTER_PX = 8
_LINE_PX = 16
_LINES = 3
_GAP_PX = 8
_TEXT_RGB = (20, 20, 20)
_MASK_RGB = (255, 0, 170)


def contact_sheet(
    items: Sequence[tuple[np.ndarray, str, np.ndarray]], *, columns: int = 4, tile_px: int = 240
) -> np.ndarray:
    """Lay out images, each with its phrase above it and its mask painted over it.

    Args:
        items: (image uint8 (H, W, 3) RGB, phrase, mask bool (H, W)) each.
        columns: Pictures side by side.
        tile_px: Longer side of a picture on the page, in pixels.

    Returns:
        uint8 (H, W, 3) RGB page.

    Raises:
        UsageError: `items` is empty.
    """
    if not items:
        raise UsageError("`items` must hold at least one picture, got none; pass some")
    tiles = [_tile(*item, tile_px) for item in items]
    height, width = np.max([tile.shape[:2] for tile in tiles], axis=0)
    page = np.full((-(-len(tiles) // columns) * height, columns * width, 3), 255, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        y, x = index // columns * height, index % columns * width
        page[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return page


def overlay(image_hwc: np.ndarray, mask_hw: np.ndarray) -> np.ndarray:
    """Tint the masked pixels and draw their contour; uint8 (H, W, 3) RGB, bool (H, W)."""
    shown = image_hwc.copy()
    shown[mask_hw] = (0.55 * image_hwc[mask_hw] + 0.45 * np.array(_MASK_RGB)).astype(np.uint8)
    contours, _ = cv2.findContours(mask_hw.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, contours, -1, _MASK_RGB, 1)
    return shown


def _tile(image_hwc: np.ndarray, phrase: str, mask_hw: np.ndarray, tile_px: int) -> np.ndarray:
    height, width = image_hwc.shape[:2]
    scale = tile_px / max(height, width)
    size_wh = (round(width * scale), round(height * scale))
    way = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    picture = cv2.resize(image_hwc, size_wh, interpolation=way)
    mask = cv2.resize(mask_hw.astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST) > 0
    top = _LINES * _LINE_PX
    tile = np.full((top + size_wh[1] + _GAP_PX, tile_px + _GAP_PX, 3), 255, dtype=np.uint8)
    for row, line in enumerate(textwrap.wrap(phrase, width=tile_px // _LETTER_PX)[:_LINES]):
        at = (0, (row + 1) * _LINE_PX - _LETTER_PX // 2)
        cv2.putText(tile, line, at, _FONT, _FONT_SCALE, _TEXT_RGB, 1, cv2.LINE_AA)
    tile[top : top + size_wh[1], : size_wh[0]] = overlay(picture, mask)
    return tile
