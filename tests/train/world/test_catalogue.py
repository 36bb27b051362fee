from __future__ import annotations

from collections import Counter

import pytest

from saymask.train.world.catalogue import CATEGORIES, COLORS, HELD_OUT_PAIRS, SIZES


def test_the_world_is_rich_enough() -> None:
    assert len(CATEGORIES) >= 14
    assert len(COLORS) == 8
    assert list(SIZES.values()) == sorted(SIZES.values())


@pytest.mark.parametrize("name", CATEGORIES)
def test_a_category_can_be_spoken_of(name: str) -> None:
    category = CATEGORIES[name]
    assert category.plural != name
    assert len(category.functions) >= 3
    names = [part.name for part in category.parts]
    assert len(names) >= 2
    assert len(set(names)) == len(names)
    assert all(part.functions for part in category.parts)


def test_held_out_pairs_leave_every_color_and_category_to_training() -> None:
    assert {color for color, _ in HELD_OUT_PAIRS} == set(COLORS)
    assert {category for _, category in HELD_OUT_PAIRS} == set(CATEGORIES)
    assert max(Counter(color for color, _ in HELD_OUT_PAIRS).values()) == 2
    assert max(Counter(category for _, category in HELD_OUT_PAIRS).values()) == 1
