from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saymask.train.world import Camera, Scene, compose
from saymask.train.world.pose import center_px, pixel_from_unit


@pytest.fixture
def scene() -> Scene:
    """Return one object in the image's centre."""
    full = compose(0, "train")
    thing = replace(
        full.objects[0], size="medium", center_xy=(0.5, 0.5), angle_deg=0.0, is_flipped=False
    )
    return replace(full, objects=(thing,))


def seen_at(scene: Scene, point: tuple[float, float], size_hw=(100, 200)) -> np.ndarray:
    return pixel_from_unit(scene, 0, size_hw) @ (*point, 1.0) + 0.5


def test_lengths_follow_the_shorter_side(scene: Scene) -> None:
    np.testing.assert_allclose(seen_at(scene, (0, 0)), (100, 50))
    np.testing.assert_allclose(seen_at(scene, (1, 0)), (125, 50))
    np.testing.assert_allclose(seen_at(scene, (1, 0), (200, 100)), (75, 100))


def test_rotation_is_counter_clockwise_as_seen(scene: Scene) -> None:
    turned = replace(scene, objects=(replace(scene.objects[0], angle_deg=90.0),))
    np.testing.assert_allclose(seen_at(turned, (1, 0)), (100, 25))


def test_a_flip_comes_before_the_rotation(scene: Scene) -> None:
    thing = replace(scene.objects[0], angle_deg=90.0, is_flipped=True)
    np.testing.assert_allclose(seen_at(replace(scene, objects=(thing,)), (1, 0)), (100, 75))


def test_the_camera_moves_and_magnifies(scene: Scene) -> None:
    camera = Camera(shift_xy=(0.1, -0.2), zoom=2.0, frame=0)
    np.testing.assert_allclose(seen_at(replace(scene, camera=camera), (1, 0)), (160, 30))


@pytest.mark.parametrize("size_hw", [(64, 64), (48, 64), (64, 48)])
def test_what_stands_on_a_thing_stays_on_it_at_any_aspect(scene: Scene, size_hw) -> None:
    rider = replace(scene.objects[0], center_xy=(0.6, 0.3), supporter=0)
    below = replace(scene.objects[0], center_xy=(0.2, 0.4))
    stacked = replace(scene, objects=(below, rider))
    offset = center_px(stacked, 1, size_hw) - center_px(stacked, 0, size_hw)
    np.testing.assert_allclose(offset / min(size_hw), (0.4, -0.1))
