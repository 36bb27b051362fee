from __future__ import annotations

import numpy as np
import pytest

from saymask.runtime.errors import UsageError
from saymask.train.world.clip import compose_clip, frames, scene_at
from saymask.train.world.truth import visible_objects

SIZE_HW = (64, 96)


def identity_of(thing) -> tuple[str, str, str, str]:
    return thing.category, thing.color, thing.pattern, thing.size


def test_a_clip_repeats() -> None:
    first, second = (list(frames(compose_clip(3, "val", 6), SIZE_HW)) for _ in range(2))
    assert len(first) == 6
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image_hwc, other.image_hwc)
        np.testing.assert_array_equal(one.instance_map_hw, other.instance_map_hw)


def test_identities_are_stable() -> None:
    clip = compose_clip(1, "train", 9)
    expected = [identity_of(thing) for thing in clip.scene.objects]
    for drawing in frames(clip, SIZE_HW):
        assert [identity_of(thing) for thing in drawing.scene.objects] == expected


def test_the_first_frame_is_the_scene() -> None:
    clip = compose_clip(4, "train", 5)
    assert scene_at(clip, 0) == clip.scene


@pytest.mark.parametrize("seed", range(6))
def test_one_object_leaves_and_returns(seed: int) -> None:
    clip = compose_clip(seed, "train", 21)
    drawings = list(frames(clip, SIZE_HW))
    (traveller,) = (i for i, path in enumerate(clip.paths) if len(path.waypoints_xy) == 5)
    full_px = [drawing.full_px[traveller] for drawing in drawings]
    assert full_px[0] > 0
    assert 0 in full_px
    assert full_px[-1] > 0
    gone = full_px.index(0)
    assert traveller not in visible_objects(drawings[gone])


def test_two_objects_change_places() -> None:
    clip = compose_clip(1, "train", 5)
    start, end = clip.scene.objects, scene_at(clip, 4).objects
    crossing = [i for i, path in enumerate(clip.paths) if len(path.waypoints_xy) == 2]
    first, second = crossing
    assert end[first].center_xy == pytest.approx(start[second].center_xy)
    assert end[second].center_xy == pytest.approx(start[first].center_xy)


def test_what_stands_on_a_thing_rides_along() -> None:
    clips = (compose_clip(seed, "train", 9) for seed in range(100))
    clip = next(c for c in clips if any(thing.supporter is not None for thing in c.scene.objects))
    index = next(i for i, thing in enumerate(clip.scene.objects) if thing.supporter is not None)
    below = clip.scene.objects[index].supporter
    offsets = [
        np.subtract(scene.objects[index].center_xy, scene.objects[below].center_xy)
        for scene in (scene_at(clip, frame) for frame in range(9))
    ]
    np.testing.assert_allclose(offsets, [offsets[0]] * 9)


def test_a_clip_has_at_least_two_frames() -> None:
    with pytest.raises(UsageError, match="at least 2, got 1"):
        compose_clip(0, "train", 1)
