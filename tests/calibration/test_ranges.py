"""Ranges of known data."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from saymask.calibration.ranges import Histogram, Range, observe
from saymask.runtime.errors import UsageError


@pytest.fixture(scope="module")
def model(build):
    return build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        line (float[n] x) => (float[n] y) {
          [twice] t = Mul (x, two)
          [shift] s = Add (t, one)
          [back] y = Neg (s)
        }
        """,
        two=np.float32(2),
        one=np.float32(1),
    )


def _histogram(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def test_inner_tensors_inputs_and_outputs(model):
    feeds = [{"x": np.float32([0, 1])}, {"x": np.float32([-3])}, {"x": np.float32([2, 5, 4])}]
    found = observe(model, iter(feeds), ["x", "s", "y"])
    assert {name: histogram.range(100) for name, histogram in found.items()} == {
        "x": Range(low=-3, high=5),
        "s": Range(low=-5, high=11),
        "y": Range(low=-11, high=5),
    }


def test_one_feed_is_held_at_a_time(model):
    alive = []

    def feeds():
        for _ in range(5):
            feed = {"x": np.ones(1000, np.float32)}
            alive.append(weakref.ref(feed["x"]))
            yield feed
            del feed
            assert sum(each() is not None for each in alive) <= 1

    observe(model, feeds(), ["x"])
    assert len(alive) == 5


def test_no_feed_is_an_error(model):
    with pytest.raises(UsageError, match="calibration must see real inputs; got none"):
        observe(model, [], ["s"])


def test_percentile_of_even_values():
    found = _histogram(np.linspace(0, 100, 100_001, dtype=np.float32)).range(90)
    width = 128 / 4096
    assert found.low == pytest.approx(5, abs=width)
    assert found.high == pytest.approx(95, abs=width)


def test_percentile_leaves_an_outlier_out():
    values = np.append(np.random.default_rng(0).normal(size=100_000), 400).astype(np.float32)
    found = _histogram(values)
    assert found.range(100).high == 400
    assert found.range(99.99).high < 5


def test_order_and_slicing_do_not_matter():
    values = np.random.default_rng(0).normal(size=3000) * np.logspace(-4, 3, 3000)
    whole = _histogram(values)
    for parts in (np.split(values, 3), np.split(values[::-1], 6)):
        again = _histogram(*parts)
        assert [again.range(p) for p in (50, 99, 100)] == [whole.range(p) for p in (50, 99, 100)]


def test_a_single_value():
    assert _histogram(np.full((2, 3), -7, np.float32)).range(99) == Range(low=-7, high=-7)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_values_must_be_finite(bad):
    with pytest.raises(UsageError, match="must be finite; got"):
        _histogram(np.float32([1, bad]))


@pytest.mark.parametrize(("values", "percent"), [([], 99), ([1], 0), ([1], 101)])
def test_a_range_needs_values_and_a_percentage(values, percent):
    with pytest.raises(UsageError, match="a range needs values and a percentage"):
        _histogram(np.float32(values)).range(percent)
