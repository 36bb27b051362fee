from __future__ import annotations

import numpy as np
import pytest

from saymask.train.world.curves import oval, petals, rectangle, rounded, smooth, stroke, turned

SQUARE = rectangle(-1, -1, 1, 1)


def area_of(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def test_an_oval_has_the_area_of_an_ellipse() -> None:
    assert area_of(oval(3, -2, 0.5, 0.25)) == pytest.approx(np.pi * 0.125, rel=0.02)


def test_an_arc_runs_clockwise_as_seen_and_stays_open() -> None:
    arc = oval(0, 0, 1, 1, start_deg=0, stop_deg=90)
    np.testing.assert_allclose(arc[[0, -1]], [(1, 0), (0, 1)], atol=1e-12)


@pytest.mark.parametrize("soften", [smooth, lambda points: rounded(points, radius=0.3)])
def test_softened_corners_stay_inside(soften) -> None:
    soft = soften(SQUARE)
    assert np.abs(soft).max() <= 1
    assert area_of(SQUARE) * 0.8 < area_of(soft) < area_of(SQUARE)


def test_a_stroke_has_its_width() -> None:
    assert area_of(stroke([(0, 0), (1, 0), (2, 0)], width=0.2)) == pytest.approx(0.4)


def test_a_blossom_has_its_petals() -> None:
    radius = np.linalg.norm(petals(0, 0, 1, count=5), axis=1)
    is_tip = (radius > np.roll(radius, 1)) & (radius > np.roll(radius, -1))
    assert is_tip.sum() == 5
    assert radius.max() == pytest.approx(1)


def test_turning_is_clockwise_as_seen() -> None:
    np.testing.assert_allclose(turned([(2, 1)], angle_deg=90, about=(1, 1)), [(1, 2)], atol=1e-12)
