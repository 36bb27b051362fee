import numpy as np
import pytest

from saymask.calibration.score import Score
from saymask.runtime.errors import UsageError
from saymask.train.intervals import compare, compare_words


def scores(ious, pixels=100) -> list[Score]:
    return [
        Score(samples=1, iou_sum=iou, intersection_pixels=round(iou * pixels), union_pixels=pixels)
        for iou in ious
    ]


@pytest.fixture(scope="module")
def ious() -> np.ndarray:
    return np.random.default_rng(3).uniform(0.3, 0.9, 400)


def test_pairing_sees_what_the_spread_of_the_phrases_hides(ious):
    found = compare(scores(ious), scores(ious + 0.01))["gIoU"]
    assert found.difference == pytest.approx(1)
    assert found.low == pytest.approx(1)
    assert found.is_sure


def test_the_interval_is_that_of_a_normal_mean(ious):
    """The spread of a mean of n differences is their own over the root of n."""
    differences = np.random.default_rng(4).normal(0.01, 0.05, len(ious))
    found = compare(scores(ious), scores(ious + differences))["gIoU"]
    error = 1.96 * differences.std() / len(ious) ** 0.5
    assert found.low == pytest.approx(100 * (differences.mean() - error), abs=0.06)
    assert found.high == pytest.approx(100 * (differences.mean() + error), abs=0.06)


def test_chance_is_not_sure(ious):
    shuffled = np.random.default_rng(5).permutation(ious)
    found = compare(scores(ious), scores(shuffled))["gIoU"]
    assert found.difference == pytest.approx(0, abs=1e-9)
    assert not found.is_sure


def test_ciou_weighs_by_pixels():
    small, large = scores([0.5, 0.5], 10), scores([0.5, 0.5], 1000)
    better = scores([1.0, 1.0], 10)
    found = compare([*small, *large], [*better, *large])
    assert found["gIoU"].difference == pytest.approx(25)
    assert found["cIoU"].difference == pytest.approx(100 * 10 / 2020)


def test_the_same_seed_gives_the_same_interval(ious):
    pair = scores(ious), scores(ious[::-1])
    assert compare(*pair) == compare(*pair)
    assert compare(*pair) != compare(*pair, seed=1)


def test_right_answers_are_counted():
    before, after = [True, False] * 200, [True, True, True, False] * 100
    found = compare_words(before, after)["accuracy"]
    assert found.difference == pytest.approx(25)
    # A quarter of the differences is one, the others are nothing.
    error = 100 * 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert found.low == pytest.approx(25 - error, abs=0.6)
    assert found.high == pytest.approx(25 + error, abs=0.6)
    with pytest.raises(UsageError, match="at least one; got 400 and 1"):
        compare_words(before, [True])


def test_unequal_or_no_phrases_are_refused():
    with pytest.raises(UsageError, match="at least one; got 1 and 2"):
        compare(scores([0.5]), scores([0.5, 0.5]))
    with pytest.raises(UsageError, match="got 0 and 0"):
        compare([], [])
