"""Where a scene's objects land in an image: from an object's own units to pixels."""

from __future__ import annotations

import numpy as np

from .catalogue import SIZES
from .scene import Scene


def center_px(scene: Scene, index: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the centre of an object as float64 (2,): x, y in pixels from the image's corner."""
    height, width = size_hw
    short = min(size_hw)
    placed = scene.objects[index]
    offset = np.zeros(2)
    while placed.supporter is not None:
        below = scene.objects[placed.supporter]
        offset += np.subtract(placed.center_xy, below.center_xy) * short
        placed = below
    middle = np.array([width / 2, height / 2])
    on_table = np.multiply(placed.center_xy, (width, height)) + offset
    camera = scene.camera
    return (on_table - middle) * camera.zoom + middle + np.multiply(camera.shift_xy, short)


def pixel_from_unit(scene: Scene, index: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the affine map from an object's own coordinates to pixel coordinates.

    Returns:
        float64 (2, 3); whole numbers are pixel centres, as OpenCV draws.
    """
    thing = scene.objects[index]
    scale = SIZES[thing.size] * min(size_hw) * scene.camera.zoom
    angle = np.radians(thing.angle_deg)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    sign = -1.0 if thing.is_flipped else 1.0
    x, y = center_px(scene, index, size_hw) - 0.5
    return np.array([[sign * c, s, x], [-sign * s, c, y]])
