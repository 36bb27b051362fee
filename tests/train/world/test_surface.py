from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saymask.train.world import Camera, Scene, compose
from saymask.train.world.catalogue import TEXTURES
from saymask.train.world.surface import lighten, photograph, table_image


def scene_with(**changes) -> Scene:
    scene = compose(0, "train")
    return replace(scene, table=replace(scene.table, **changes))


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_keeps_to_its_tint(texture: str) -> None:
    scene = scene_with(texture=texture, tint_rgb=(150, 140, 130))
    image_hwc = table_image(scene, (96, 128))
    assert image_hwc.dtype == np.float32
    assert image_hwc.shape == (96, 128, 3)
    np.testing.assert_allclose(image_hwc.mean(axis=(0, 1)), (150, 140, 130), rtol=0.12)
    assert image_hwc.std() > 0.5


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_moves_with_the_camera(texture: str) -> None:
    scene = scene_with(texture=texture)
    moved = replace(scene, camera=Camera(shift_xy=(8 / 64, 0.0), zoom=1.0, frame=0))
    still, shifted = table_image(scene, (64, 64)), table_image(moved, (64, 64))
    difference = np.abs(still[:, :-8] - shifted[:, 8:])
    assert np.mean(difference < 2) > 0.97


def test_light_comes_from_its_angle() -> None:
    scene = scene_with(light_angle_deg=90.0, light_gain=0.3)
    lit = lighten(np.full((64, 64, 3), 100, dtype=np.float32), scene.table)
    assert lit[0].mean() == pytest.approx(115, abs=0.5)
    assert lit[-1].mean() == pytest.approx(85, abs=0.5)


def test_a_perfect_camera_only_rounds() -> None:
    scene = scene_with(noise_sigma=0.0, blur_sigma=0.0, jpeg_quality=100)
    image_hwc = np.linspace(0, 255, 64 * 64 * 3, dtype=np.float32).reshape(64, 64, 3)
    photo_hwc = photograph(image_hwc, scene)
    assert photo_hwc.dtype == np.uint8
    np.testing.assert_allclose(photo_hwc, image_hwc, atol=0.51)


def test_noise_has_its_strength_and_is_new_in_each_frame() -> None:
    scene = scene_with(noise_sigma=5.0, blur_sigma=0.0, jpeg_quality=100)
    gray_hwc = np.full((64, 64, 3), 128, dtype=np.float32)
    later = replace(scene, camera=replace(scene.camera, frame=1))
    first, second = (photograph(gray_hwc, each).astype(int) for each in (scene, later))
    assert first.std() == pytest.approx(5, rel=0.05)
    assert (first != second).mean() > 0.8


def test_jpeg_keeps_the_colors() -> None:
    scene = scene_with(noise_sigma=0.0, blur_sigma=0.0, jpeg_quality=90)
    red_hwc = np.full((64, 64, 3), (208, 36, 38), dtype=np.float32)
    np.testing.assert_allclose(photograph(red_hwc, scene), red_hwc, atol=4)
