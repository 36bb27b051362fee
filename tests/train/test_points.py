import numpy as np
import pytest

from saymask.train.points import (
    MOST_POINTS,
    PATTERN_POINTS,
    PLACES,
    RADIUS,
    RANDOM_POINTS,
    is_inside,
    poisson_disk,
)


@pytest.fixture(scope="module", params=sorted(PLACES))
def draw(request):
    return PLACES[request.param]()


def test_places_lie_in_the_box_and_are_seeded(draw):
    drawn = [draw(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(*drawn[:2])
    assert not np.array_equal(drawn[0], drawn[2])
    for places in drawn:
        assert places.shape[1] == 2
        assert places.min() >= 0
        assert places.max() <= 1


def test_the_paper_asks_about_ten_points():
    assert PLACES["random"]()(np.random.default_rng(0)).shape == (RANDOM_POINTS, 2)


def test_the_notebooks_ask_about_one_to_twenty_around_ten():
    draw, rng = PLACES["poisson"](), np.random.default_rng(0)
    drawn = [draw(rng) for _ in range(400)]
    counts = [len(places) for places in drawn]
    assert min(counts) >= 1
    assert max(counts) <= MOST_POINTS
    assert np.mean(counts) == pytest.approx(9.5, abs=0.6)  # The fraction is cut off.
    assert all(len(np.unique(places, axis=0)) == len(places) for places in drawn)


def test_a_pattern_keeps_its_distance_and_leaves_no_large_gap():
    pattern = poisson_disk(np.random.default_rng(0))
    assert 50 < len(pattern) <= PATTERN_POINTS
    apart = np.hypot(*(pattern[:, None] - pattern).transpose(2, 0, 1))
    assert apart[~np.eye(len(pattern), dtype=bool)].min() >= RADIUS
    anywhere = np.random.default_rng(1).random((500, 2))
    nearest = np.hypot(*(anywhere[:, None] - pattern).transpose(2, 0, 1)).min(1)
    assert (nearest < 1.3 * RADIUS).mean() > 0.98


def test_a_point_is_inside_where_its_pixel_is():
    mask_hw = np.zeros((3, 4), bool)
    mask_hw[1, 2] = True
    xy = np.array(
        [[2.0, 1.0], [2.9, 1.9], [3.0, 1.0], [1.99, 1.5], [2.5, -0.1], [2.5, 3.0], [9, 1]]
    )
    assert is_inside(mask_hw, xy).tolist() == [True, True, False, False, False, False, False]
    mask_hw[2, 3] = True
    assert not is_inside(mask_hw, np.array([[4.0, 2.5], [-0.5, 0.0]])).any(), "outside of the view"
