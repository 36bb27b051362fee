from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.errors import UnknownNameError
from saymask.train.world import Drawing, Target, compose, draw, mask_of
from saymask.train.world.catalogue import CATEGORIES
from saymask.train.world.truth import part_label, visible_fraction, visible_objects


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    return draw(compose(5, "train"), (128, 128))


def targets_of(drawing: Drawing, index: int) -> tuple[Target, ...]:
    parts = CATEGORIES[drawing.scene.objects[index].category].parts
    return tuple(Target(object_index=index, part=part.name) for part in parts)


def test_masks_of_all_objects_are_the_instance_map(drawing: Drawing) -> None:
    everything = tuple(Target(object_index=i, part=None) for i in range(len(drawing.full_px)))
    np.testing.assert_array_equal(mask_of(drawing, everything), drawing.instance_map_hw > 0)


def test_no_target_is_an_empty_mask(drawing: Drawing) -> None:
    mask_hw = mask_of(drawing, ())
    assert mask_hw.dtype == bool
    assert mask_hw.shape == (128, 128)
    assert not mask_hw.any()


def test_part_masks_partition_the_object_mask(drawing: Drawing) -> None:
    for index in range(len(drawing.full_px)):
        targets = targets_of(drawing, index)
        whole = mask_of(drawing, (Target(object_index=index, part=None),))
        np.testing.assert_array_equal(mask_of(drawing, targets), whole)
        assert sum(mask_of(drawing, (target,)).sum() for target in targets) == whole.sum()


def test_an_unknown_part_lists_the_known_ones(drawing: Drawing) -> None:
    with pytest.raises(UnknownNameError, match="category 'mug' must be one of body, handle"):
        part_label("mug", "wheel")
    with pytest.raises(UnknownNameError):
        mask_of(drawing, (Target(object_index=0, part="wheel"),))


def test_a_covered_object_is_not_spoken_of() -> None:
    scene = compose(0, "train")
    below = replace(scene.objects[0], category="apple", size="small", center_xy=(0.5, 0.5))
    above = replace(below, category="box", size="large")
    drawing = draw(replace(scene, objects=(below, above)), (128, 128))
    assert visible_fraction(drawing, 0) < 0.5
    assert visible_fraction(drawing, 1) == 1
    assert visible_objects(drawing) == (1,)


def test_an_object_that_hardly_shows_is_not_spoken_of() -> None:
    scene = compose(0, "train")
    leaving = replace(scene.objects[0], category="mug", size="small", center_xy=(-0.06, 0.5))
    drawing = draw(replace(scene, objects=(leaving,)), (128, 128))
    assert drawing.visible_px[0] > 0
    assert visible_fraction(drawing, 0) == 1
    assert visible_objects(drawing) == ()
