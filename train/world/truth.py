"""What is true of a drawn scene: whose pixel is whose, what each object shows and what it hides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...runtime.errors import UnknownNameError
from .catalogue import CATEGORIES
from .scene import Scene

_MIN_VISIBLE_FRACTION = 0.5
_MIN_OBJECT_SHARE = 0.003


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing that a phrase points at: a whole object, or one named part of it."""

    object_index: int
    """Index into `Scene.objects`."""
    part: str | None
    """Part name of the object's category; None is the whole object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A drawn scene with its exact labels."""

    scene: Scene
    """What was drawn."""
    image_hwc: np.ndarray
    """uint8 (H, W, 3) RGB."""
    instance_map_hw: np.ndarray
    """uint8 (H, W): 0 is table, i + 1 is `scene.objects[i]` where it is visible."""
    part_map_hw: np.ndarray
    """uint8 (H, W): 0 is table, p + 1 is the p-th part in the object's category's part order."""
    boxes_xyxy: np.ndarray
    """int64 (n, 4): the box of each object's visible pixels, x1 and y1 exclusive; 0 if hidden."""
    visible_px: np.ndarray
    """int64 (n,): visible pixels of each object."""
    full_px: np.ndarray
    """int64 (n,): pixels of each object inside the image if nothing covered it."""
    hidden_px: np.ndarray
    """int64 (n, n): [i, j] is the number of pixels of object j that object i covered.

    A pixel counts for the last object seen there, so column j sums to `full_px` - `visible_px`.
    """


def mask_of(drawing: Drawing, targets: tuple[Target, ...]) -> np.ndarray:
    """Return the union of the visible pixels of `targets` as bool (H, W).

    Raises:
        UnknownNameError: A target's part is no part of its object's category.
    """
    mask_hw = np.zeros(drawing.instance_map_hw.shape, dtype=bool)
    for target in targets:
        is_target = drawing.instance_map_hw == target.object_index + 1
        if target.part is not None:
            category = drawing.scene.objects[target.object_index].category
            is_target &= drawing.part_map_hw == part_label(category, target.part)
        mask_hw |= is_target
    return mask_hw


def part_label(category: str, part: str) -> int:
    """Return the value of a part in `Drawing.part_map_hw`, from 1.

    Raises:
        UnknownNameError: `category` has no such part.
    """
    names = [each.name for each in CATEGORIES[category].parts]
    if part not in names:
        raise UnknownNameError(f"a part of category {category!r}", part, names)
    return names.index(part) + 1


def visible_fraction(drawing: Drawing, index: int) -> float:
    """Return which share of an object's pixels inside the image nothing covers, in [0, 1]."""
    return float(drawing.visible_px[index] / max(1, drawing.full_px[index]))


def visible_objects(drawing: Drawing) -> tuple[int, ...]:
    """Return the objects that can be spoken of: at least half uncovered and not too small."""
    least_px = _MIN_OBJECT_SHARE * drawing.instance_map_hw.size
    return tuple(
        index
        for index in range(len(drawing.scene.objects))
        if drawing.visible_px[index] >= least_px
        and visible_fraction(drawing, index) >= _MIN_VISIBLE_FRACTION
    )
