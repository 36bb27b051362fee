from __future__ import annotations

import numpy as np
import pytest

from saymask.train.world.catalogue import CATEGORIES
from saymask.train.world.shapes import PAINTS, TOPS, points_of, shapes_of


@pytest.mark.parametrize("category", CATEGORIES)
def test_shapes_are_the_parts_of_the_catalogue(category: str) -> None:
    drawn = {shape.part for shape in shapes_of(category)}
    assert drawn == {part.name for part in CATEGORIES[category].parts}


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_shows_its_color(category: str) -> None:
    paints = {shape.paint for shape in shapes_of(category)}
    assert "main" in paints
    assert paints <= {*PAINTS, "main", "main_dark", "main_light"}


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_outline_is_centred_and_about_one_unit_across(category: str) -> None:
    points = points_of(category)
    low, high = points.min(axis=0), points.max(axis=0)
    assert np.abs(low + high).max() < 0.25
    assert 0.9 < (high - low).max() < 1.8


def test_tops_lie_on_their_category() -> None:
    for category, top in TOPS.items():
        points = points_of(category)
        assert (points.min(axis=0) < top).all()
        assert (points.max(axis=0) > top).all()
