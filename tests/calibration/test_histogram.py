"""Counts of known values."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration.histogram import Histogram, Range
from saymask.runtime.errors import UsageError


def _histogram(*parts: np.ndarray, channel_axis: int | None = None) -> Histogram:
    histogram = Histogram(channel_axis=channel_axis)
    for part in parts:
        histogram.add(part)
    return histogram


def _is_same(a: Histogram, b: Histogram) -> bool:
    return all((array == b.state()[name]).all() for name, array in a.state().items())


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


def test_order_and_slicing_leave_no_trace():
    values = np.random.default_rng(0).normal(size=3000) * np.logspace(-9, 3, 3000)
    values = np.append(values, [0, 2, -2, 1024, -1024])
    whole = _histogram(values)
    assert whole.counts.sum() == 3005
    for parts in (np.split(values, 5), np.split(values[::-1], 5), np.split(np.sort(values), 601)):
        assert _is_same(_histogram(*parts), whole)


def test_many_values_are_counted_slice_by_slice():
    values = np.random.default_rng(0).normal(size=600_001).astype(np.float32)
    assert _histogram(values).counts.sum() == 600_001


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_channels_apart_reach_as_far_as_each_alone(axis):
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=(3, 20, 30)) for _ in range(4)]
    parts = [np.moveaxis(part * [[[0.01]], [[1]], [[300]]], 0, axis) for part in parts]
    together = _histogram(*parts, channel_axis=axis)
    assert together.absmax.shape == (3,)
    for number in range(3):
        alone = _histogram(*(np.take(part, number, axis) for part in parts))
        whole = alone.range(100)
        assert (together.lows[number], together.highs[number]) == (whole.low, whole.high)
        assert together.absmax[number] == alone.absmax[0]


def test_a_channel_takes_no_more_than_its_two_ends():
    found = _histogram(*(np.ones((2, 10_000), np.float32),) * 3, channel_axis=1)
    assert sum(array.nbytes for array in found.state().values()) == 2 * 4 * 10_000
    assert found.counts.size == 0
    again = Histogram.restored(found.state(), channel_axis=1)
    again.add(np.full((5, 10_000), -3))
    assert again.absmax.tolist() == [3] * 10_000
    with pytest.raises(UsageError, match="got 0 counted values and 100"):
        again.range(100)


def test_channels_must_stay():
    with pytest.raises(UsageError, match=r"must have the same channels.*got 3 after 2"):
        _histogram(np.ones((2, 5)), np.ones((3, 5)), channel_axis=0)


def test_it_goes_on_from_its_state():
    parts = [np.float32([1, -3]), np.float32([200, 7])]
    halfway = Histogram.restored(_histogram(parts[0]).state())
    halfway.add(parts[1])
    assert _is_same(halfway, _histogram(*parts))


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
