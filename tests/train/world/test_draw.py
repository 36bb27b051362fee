from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saymask.train.world import Drawing, Scene, compose, draw
from saymask.train.world.catalogue import CATEGORIES, COLORS


def box_of(mask_hw: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask_hw.any(axis=1)), np.flatnonzero(mask_hw.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return [draw(compose(seed, "train"), (128, 128)) for seed in range(24)]


@pytest.mark.parametrize("size_hw", [(128, 128), (90, 160)])
def test_the_same_scene_gives_the_same_bytes(size_hw: tuple[int, int]) -> None:
    first, second = (draw(compose(1, "test"), size_hw) for _ in range(2))
    for drawing in (first, second):
        assert drawing.image_hwc.shape == (*size_hw, 3)
        assert drawing.image_hwc.dtype == np.uint8
    np.testing.assert_array_equal(first.image_hwc, second.image_hwc)
    np.testing.assert_array_equal(first.part_map_hw, second.part_map_hw)


def test_parts_partition_their_object(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        is_object = drawing.instance_map_hw > 0
        np.testing.assert_array_equal(is_object, drawing.part_map_hw > 0)
        for index, thing in enumerate(drawing.scene.objects):
            labels = drawing.part_map_hw[drawing.instance_map_hw == index + 1]
            assert labels.max(initial=0) <= len(CATEGORIES[thing.category].parts)


def test_counts_and_boxes_agree_with_the_labels(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        for index in range(len(drawing.scene.objects)):
            mask_hw = drawing.instance_map_hw == index + 1
            assert drawing.visible_px[index] == mask_hw.sum()
            if mask_hw.any():
                assert tuple(drawing.boxes_xyxy[index]) == box_of(mask_hw)


def test_what_is_hidden_and_what_is_seen_make_the_whole(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        hidden_px = drawing.hidden_px.sum(axis=0)
        np.testing.assert_array_equal(hidden_px, drawing.full_px - drawing.visible_px)
        assert not np.triu(drawing.hidden_px).any()


def test_uncovered_size_is_that_of_the_object_alone() -> None:
    scene = compose(2, "train")
    drawing = draw(scene, (128, 128))
    for index, thing in enumerate(scene.objects):
        if thing.supporter is None:
            alone = draw(replace(scene, objects=(thing,)), (128, 128))
            assert alone.visible_px[0] == drawing.full_px[index]


def test_masks_do_not_depend_on_the_resolution() -> None:
    for seed in range(8):
        scene = compose(seed, "train")
        small, large = draw(scene, (128, 128)), draw(scene, (256, 256))
        for index in range(len(scene.objects)):
            is_small = small.instance_map_hw == index + 1
            is_large = large.instance_map_hw == index + 1
            halved = is_large.reshape(128, 2, 128, 2).mean(axis=(1, 3)) >= 0.5
            union = (is_small | halved).sum()
            assert (is_small & halved).sum() / union > 0.9


def test_colors_stay_recognizable_under_the_light() -> None:
    names, rgb = list(COLORS), np.array(list(COLORS.values()))
    is_right = []
    for seed in range(80):
        drawing = draw(compose(seed, "train"), (128, 128))
        for index, thing in enumerate(drawing.scene.objects):
            if thing.category in ("apple", "mug", "teapot", "car") and thing.pattern == "plain":
                is_body = (drawing.instance_map_hw == index + 1) & (drawing.part_map_hw == 1)
                seen = np.median(drawing.image_hwc[is_body], axis=0)
                nearest = np.abs(rgb - seen).sum(axis=1).argmin()
                is_right.append(names[nearest] == thing.color)
    assert len(is_right) > 50
    assert np.mean(is_right) > 0.95


def test_an_object_outside_the_image_is_drawn_nowhere() -> None:
    scene: Scene = compose(0, "train")
    away = replace(scene.objects[0], center_xy=(2.5, 0.5))
    drawing = draw(replace(scene, objects=(away,)), (64, 64))
    assert drawing.full_px.tolist() == [0]
    assert drawing.boxes_xyxy.tolist() == [[0, 0, 0, 0]]
    assert not drawing.instance_map_hw.any()
