from __future__ import annotations

import pytest

from saymask.runtime.errors import UnknownNameError
from saymask.train.world import Scene, compose, draw
from saymask.train.world.catalogue import CATEGORIES, COLORS, HELD_OUT_PAIRS, SIZES
from saymask.train.world.shapes import TOPS


def scenes_of(split: str, count: int = 150) -> list[Scene]:
    return [compose(seed, split) for seed in range(count)]


def pairs_of(scenes: list[Scene]) -> list[tuple[str, str]]:
    return [(thing.color, thing.category) for scene in scenes for thing in scene.objects]


def test_a_seed_is_a_scene_in_each_split() -> None:
    assert compose(5, "train") == compose(5, "train")
    things = {compose(5, split).objects for split in ("train", "val", "test")}
    assert len(things) == 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_held_out_pairs_are_never_trained_on(split: str) -> None:
    pairs = pairs_of(scenes_of(split))
    assert not HELD_OUT_PAIRS & set(pairs)
    assert {color for color, _ in pairs} == set(COLORS)
    assert {category for _, category in pairs} == set(CATEGORIES)


def test_held_out_pairs_are_frequent_in_test() -> None:
    pairs = pairs_of(scenes_of("test"))
    share = sum(pair in HELD_OUT_PAIRS for pair in pairs) / len(pairs)
    assert 0.14 < share < 0.21


def test_scenes_have_3_to_9_objects() -> None:
    counts = {len(scene.objects) for scene in scenes_of("train")}
    assert counts == set(range(3, 10))


def test_what_stands_on_a_thing_is_smaller_upright_and_drawn_later() -> None:
    found = 0
    for scene in scenes_of("train"):
        for index, thing in enumerate(scene.objects):
            if thing.supporter is None:
                continue
            below = scene.objects[thing.supporter]
            found += 1
            assert thing.supporter < index
            assert below.category in TOPS
            assert not CATEGORIES[thing.category].is_flat
            assert SIZES[thing.size] < SIZES[below.size]
    assert found > 20


def test_most_objects_are_hardly_covered() -> None:
    shares = []
    for scene in scenes_of("train", 60):
        drawing = draw(scene, (64, 64))
        shares.extend(drawing.visible_px / drawing.full_px)
    assert sum(share >= 0.7 for share in shares) / len(shares) > 0.9
    assert any(share < 1 for share in shares)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="split must be one of"):
        compose(0, "dev")
