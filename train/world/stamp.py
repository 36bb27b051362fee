"""One object in the rectangle of pixels that holds it: its part labels and its paint."""

from __future__ import annotations

import cv2
import numpy as np

from .catalogue import COLORS
from .pose import pixel_from_unit
from .scene import Scene
from .shapes import PAINTS, Shape, points_of, shapes_of
from .truth import part_label

_SHIFT = 4
"""Fractional bits of the polygon corners that OpenCV draws."""
_FINER = 4
"""Fills are drawn this much finer and averaged: OpenCV's own fills reach half a pixel too far."""
_LINE_WIDTH = 0.006
"""Of an outline, in shorter sides."""
_PATTERN_PERIOD = 0.25
"""From stripe to stripe and from dot to dot, in unit lengths."""
_LIGHT_ACCENT_RGB = (244, 242, 236)


class Stamp:
    """One object of a scene, placed in an image of a given size."""

    def __init__(self, scene: Scene, index: int, size_hw: tuple[int, int]) -> None:
        """Place object `index` of `scene`."""
        self._thing = scene.objects[index]
        self._shapes = shapes_of(self._thing.category)
        self._is_lit_from_right = np.cos(np.radians(scene.table.light_angle_deg)) > 0
        self._line_px = max(1, round(_LINE_WIDTH * min(size_hw)))
        affine = pixel_from_unit(scene, index, size_hw)
        points = points_of(self._thing.category) @ affine[:, :2].T + affine[:, 2]
        low = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 2, size_hw[::-1])
        high = np.maximum(low, high)
        self.region = (slice(low[1], high[1]), slice(low[0], high[0]))
        self._size_hw = (int(high[1] - low[1]), int(high[0] - low[0]))
        affine[:, 2] -= low
        self._affine = affine
        ends = np.cumsum([len(c) for shape in self._shapes for c in shape.contours])[:-1]
        contours = iter(np.split(points - low, ends))
        self._contours = [[next(contours) for _ in shape.contours] for shape in self._shapes]
        self._coverages = [] if self.is_outside else [self._fill(c) for c in self._contours]

    @property
    def is_outside(self) -> bool:
        """True when no pixel of the image can belong to the object."""
        return 0 in self._size_hw

    def part_labels(self) -> np.ndarray:
        """Return uint8 (h, w) over `region`: 0 outside, p + 1 on the category's p-th part.

        A pixel belongs to the foremost shape that covers at least half of it.
        """
        labels_hw = np.zeros(self._size_hw, dtype=np.uint8)
        for shape, coverage_hw in zip(self._shapes, self._coverages, strict=True):
            labels_hw[coverage_hw >= 128] = part_label(self._thing.category, shape.part)
        return labels_hw

    def paint(self, patch_hwc: np.ndarray) -> None:
        """Paint over `patch_hwc`, the float32 (h, w, 3) RGB pixels of `region`, in place."""
        u_hw, v_hw = self._unit_coordinates()
        for shape, contours, coverage_hw in zip(
            self._shapes, self._contours, self._coverages, strict=True
        ):
            rgb = self._color_of(shape, u_hw, v_hw)
            if shape.has_outline:
                rgb = rgb * (1 - self._outline(contours) * np.float32(0.55 / 255))[..., None]
            alpha_hw = coverage_hw * np.float32(shape.opacity / 255)
            patch_hwc += (rgb - patch_hwc) * alpha_hw[..., None]

    def _fill(self, contours: list[np.ndarray]) -> np.ndarray:
        """Return how much of each pixel the contours enclose, uint8 (h, w), 255 is all of it."""
        height, width = self._size_hw
        fine = np.zeros((height * _FINER, width * _FINER), dtype=np.uint8)
        corners = [_fixed_point((contour + 0.5) * _FINER - 0.5) for contour in contours]
        cv2.fillPoly(fine, corners, 255, shift=_SHIFT)
        return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)

    def _outline(self, contours: list[np.ndarray]) -> np.ndarray:
        """Return the line around the contours, uint8 (h, w), 255 is all ink."""
        ink_hw = np.zeros(self._size_hw, dtype=np.uint8)
        corners = [_fixed_point(contour) for contour in contours]
        cv2.polylines(ink_hw, corners, True, 255, self._line_px, cv2.LINE_AA, _SHIFT)
        return ink_hw

    def _unit_coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each pixel's place in the object's own coordinates, float32 (h, w) twice."""
        inverse = cv2.invertAffineTransform(self._affine).astype(np.float32)
        x = np.arange(self._size_hw[1], dtype=np.float32)[None, :]
        y = np.arange(self._size_hw[0], dtype=np.float32)[:, None]
        u_hw, v_hw = (a * x + (b * y + c) for a, b, c in inverse)
        return u_hw, v_hw

    def _color_of(self, shape: Shape, u_hw: np.ndarray, v_hw: np.ndarray) -> np.ndarray:
        """Return a shape's color before outline, float32 (3,) or (h, w, 3)."""
        rgb = _rgb_of(shape.paint, self._thing.color)
        if shape.paint == "main" and self._thing.pattern != "plain":
            ink_hw = _PATTERNS[self._thing.pattern](u_hw, v_hw)
            rgb = rgb + (_accent_of(self._thing.color) - rgb) * ink_hw[..., None]
        if shape.roundness:
            rgb = rgb * self._shade(shape, u_hw)[..., None]
        return rgb

    def _shade(self, shape: Shape, u_hw: np.ndarray) -> np.ndarray:
        """Darken a round thing towards its sides, more on the side away from the light."""
        low, high = shape.contours[0][:, 0].min(), shape.contours[0][:, 0].max()
        lit = np.float32(-0.3 if self._is_lit_from_right == self._thing.is_flipped else 0.3)
        t_hw = (u_hw - np.float32((low + high) / 2)) * np.float32(2 / (high - low)) - lit
        return np.float32(1.08) - np.float32(0.3 * shape.roundness) * t_hw * t_hw


def _fixed_point(points: np.ndarray) -> np.ndarray:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _rgb_of(paint: str, color: str) -> np.ndarray:
    main = np.array(PAINTS.get(paint, COLORS[color]), dtype=np.float32)
    if paint == "main_dark":
        return main * np.float32(0.74)
    if paint == "main_light":
        return main + (255 - main) * np.float32(0.22)
    return main


def _accent_of(color: str) -> np.ndarray:
    """Return the color of stripes and dots: light on dark colors, darker on light ones."""
    if color in ("white", "yellow"):
        return _rgb_of("main", color) * np.float32(0.5)
    return np.array(_LIGHT_ACCENT_RGB, dtype=np.float32)


def _stripes(u_hw: np.ndarray, v_hw: np.ndarray) -> np.ndarray:
    wave_hw = np.sin((u_hw + v_hw) * np.float32(2**0.5 * np.pi / _PATTERN_PERIOD))
    return np.clip((wave_hw - 0.2) * 4, 0, 1)


def _dots(u_hw: np.ndarray, v_hw: np.ndarray) -> np.ndarray:
    rate = np.float32(2**0.5 * np.pi / _PATTERN_PERIOD)
    wave_hw = np.cos((u_hw + v_hw) * rate) + np.cos((u_hw - v_hw) * rate)
    return np.clip((wave_hw - 0.9) * 3, 0, 1)


_PATTERNS = {"striped": _stripes, "dotted": _dots}
