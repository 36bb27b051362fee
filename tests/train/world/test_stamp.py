from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saymask.train.world import Scene, compose
from saymask.train.world.catalogue import CATEGORIES, COLORS
from saymask.train.world.stamp import Stamp

SIZE_HW = (96, 96)


def scene_with(category: str, **changes) -> Scene:
    scene = compose(0, "train")
    thing = replace(
        scene.objects[0],
        category=category,
        center_xy=(0.5, 0.5),
        size="large",
        angle_deg=0.0,
        color="red",
        pattern="plain",
        supporter=None,
    )
    return replace(scene, objects=(replace(thing, **changes),))


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_part_shows(category: str) -> None:
    labels = Stamp(scene_with(category), 0, SIZE_HW).part_labels()
    pixels = np.bincount(labels.ravel(), minlength=len(CATEGORIES[category].parts) + 1)
    assert (pixels[1:] >= 8).all()


@pytest.mark.parametrize("category", CATEGORIES)
def test_paint_and_labels_cover_the_same_pixels(category: str) -> None:
    stamp = Stamp(scene_with(category), 0, SIZE_HW)
    labels = stamp.part_labels()
    canvas = np.full((*labels.shape, 3), 123.0, dtype=np.float32)
    stamp.paint(canvas)
    is_painted = np.abs(canvas - 123).max(axis=2) > 66
    assert (is_painted & (labels > 0)).sum() > 0.5 * (labels > 0).sum()
    assert (is_painted & (labels == 0)).mean() < 0.01


@pytest.mark.parametrize("pattern", ["striped", "dotted"])
@pytest.mark.parametrize("color", COLORS)
def test_a_pattern_shows(pattern: str, color: str) -> None:
    pictures = []
    for wanted in ("plain", pattern):
        stamp = Stamp(scene_with("mug", color=color, pattern=wanted), 0, SIZE_HW)
        canvas = np.zeros((*stamp.part_labels().shape, 3), dtype=np.float32)
        stamp.paint(canvas)
        pictures.append(canvas)
    is_changed = np.abs(pictures[0] - pictures[1]).max(axis=2) > 50
    assert 0.08 < is_changed.mean() < 0.5


def test_a_stamp_outside_the_image_says_so() -> None:
    assert Stamp(scene_with("mug", center_xy=(-1.0, 0.5)), 0, SIZE_HW).is_outside
    assert not Stamp(scene_with("mug"), 0, SIZE_HW).is_outside
