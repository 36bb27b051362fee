"""A scene in, its picture and exact label maps out, at any resolution."""

from __future__ import annotations

import cv2
import numpy as np

from .scene import Scene, Table
from .stamp import Stamp
from .surface import lighten, photograph, table_image
from .truth import Drawing

_SHADOW_LENGTH = 0.025
_SHADOW_SOFTNESS = 0.03
_SHADOW_DEPTH = 0.45


def draw(scene: Scene, size_hw: tuple[int, int]) -> Drawing:
    """Draw a scene with its labels; the same scene and size give the same bytes.

    Args:
        scene: What to draw.
        size_hw: Height and width of the image in pixels; all lengths follow the shorter one.
    """
    count = len(scene.objects)
    canvas_hwc = table_image(scene, size_hw)
    instance_map_hw = np.zeros(size_hw, dtype=np.uint8)
    part_map_hw = np.zeros(size_hw, dtype=np.uint8)
    hidden_px = np.zeros((count, count), dtype=np.int64)
    full_px = np.zeros(count, dtype=np.int64)
    stamps = [Stamp(scene, index, size_hw) for index in range(count)]
    for index, stamp in enumerate(stamps):
        if stamp.is_outside:
            continue
        region = stamp.region
        parts_hw = stamp.part_labels()
        is_object = parts_hw > 0
        covered = np.bincount(instance_map_hw[region][is_object], minlength=count + 1)
        hidden_px[index] = covered[1:]
        full_px[index] = covered.sum()
        instance_map_hw[region][is_object] = index + 1
        part_map_hw[region][is_object] = parts_hw[is_object]
        _cast_shadow(canvas_hwc, is_object, region, scene.table)
        stamp.paint(canvas_hwc[region])
    boxes_xyxy, visible_px = _visible_extents(instance_map_hw, stamps)
    return Drawing(
        scene=scene,
        image_hwc=photograph(lighten(canvas_hwc, scene.table), scene),
        instance_map_hw=instance_map_hw,
        part_map_hw=part_map_hw,
        boxes_xyxy=boxes_xyxy,
        visible_px=visible_px,
        full_px=full_px,
        hidden_px=hidden_px,
    )


def _cast_shadow(
    canvas_hwc: np.ndarray, is_object: np.ndarray, region: tuple[slice, slice], table: Table
) -> None:
    """Darken what lies behind an object, away from the light, softly and in place."""
    short = min(canvas_hwc.shape[:2])
    angle, length = np.radians(table.light_angle_deg), _SHADOW_LENGTH * short
    reach = int(_SHADOW_SOFTNESS * short) | 1
    pad = reach + round(length)
    shade_hw = np.zeros(np.add(is_object.shape, 2 * pad), dtype=np.float32)
    top, left = pad + round(length * np.sin(angle)), pad - round(length * np.cos(angle))
    shade_hw[top : top + is_object.shape[0], left : left + is_object.shape[1]] = is_object
    shade_hw = cv2.blur(cv2.blur(shade_hw, (reach, reach)), (reach, reach))
    y0, x0 = region[0].start - pad, region[1].start - pad
    patch_hwc = canvas_hwc[max(y0, 0) : region[0].stop + pad, max(x0, 0) : region[1].stop + pad]
    inside_hw = shade_hw[max(-y0, 0) :, max(-x0, 0) :][: patch_hwc.shape[0], : patch_hwc.shape[1]]
    patch_hwc *= (1 - np.float32(_SHADOW_DEPTH) * inside_hw)[..., None]


def _visible_extents(
    instance_map_hw: np.ndarray, stamps: list[Stamp]
) -> tuple[np.ndarray, np.ndarray]:
    """Return `Drawing.boxes_xyxy` and `Drawing.visible_px`."""
    boxes_xyxy = np.zeros((len(stamps), 4), dtype=np.int64)
    visible_px = np.zeros(len(stamps), dtype=np.int64)
    for index, stamp in enumerate(stamps):
        rows, columns = stamp.region
        is_object = (instance_map_hw[rows, columns] == index + 1).astype(np.uint8)
        visible_px[index] = np.count_nonzero(is_object)
        if visible_px[index]:
            x, y, width, height = cv2.boundingRect(is_object)
            x, y = x + columns.start, y + rows.start
            boxes_xyxy[index] = x, y, x + width, y + height
    return boxes_xyxy, visible_px
