"""What each method covers of distributions that trained networks have."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration.histogram import Histogram, Range
from saymask.calibration.observers import METHODS, Observer
from saymask.runtime.errors import UnknownNameError, UsageError

NORMAL = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
OUTLIER = np.append(NORMAL, np.float32(60))
GELU = (NORMAL * 2 / (1 + np.exp(-3.4 * NORMAL))).astype(np.float32)


def _range(text: str, values: np.ndarray, *, is_symmetric: bool = False) -> Range:
    histogram = Histogram()
    histogram.add(values)
    return Observer.parse(text).range(histogram, is_symmetric=is_symmetric)


def _error(values: np.ndarray, covered: Range, is_symmetric: bool) -> float:
    """Mean squared error of real rounding to 8 bits."""
    low, high = min(covered.low, 0), max(covered.high, 0)
    limit = max(-low, high)
    step = limit / 127 if is_symmetric else (high - low) / 255
    first = -127 if is_symmetric else np.rint(low / step)
    last = 127 if is_symmetric else first + 255
    rounded = np.clip(np.rint(values / step), first, last) * step
    return float(np.square(values - rounded).mean())


@pytest.mark.parametrize("text", ["minmax", "entropy", "mse", "percentile:99.9"])
def test_text_there_and_back(text):
    assert str(Observer.parse(text)) == text


def test_the_percentile_has_a_usual_share():
    assert str(Observer.parse("percentile")) == "percentile:99.99"


@pytest.mark.parametrize("text", ["percentile:0", "percentile:101", "percentile:", "mse:99"])
def test_shares_must_make_sense(text):
    with pytest.raises(UsageError, match=r"percentile:P with P in \(0, 100\]; got"):
        Observer.parse(text)


def test_unknown_methods():
    with pytest.raises(UnknownNameError, match="entropy, minmax, mse, percentile"):
        Observer.parse("max")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0, 3, -3])
def test_a_constant_is_covered(method, value):
    assert _range(method, np.full(9, value, np.float32)) == Range(low=value, high=value)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_lie_within_the_values(method):
    for values in (NORMAL, OUTLIER, GELU, np.abs(NORMAL) + 2):
        for is_symmetric in (False, True):
            found = _range(method, values, is_symmetric=is_symmetric)
            assert float(values.min()) <= found.low <= found.high <= float(values.max())


@pytest.mark.parametrize("method", ["entropy", "mse", "percentile"])
def test_a_lone_outlier_is_cut_off(method):
    found = _range(method, OUTLIER, is_symmetric=True)
    assert 2.5 < found.high < 30
    assert _range("minmax", OUTLIER).high == 60


@pytest.mark.parametrize("is_symmetric", [False, True])
@pytest.mark.parametrize("values", [NORMAL, OUTLIER, GELU], ids=["normal", "outlier", "gelu"])
def test_mse_leaves_the_least_error(values, is_symmetric):
    least = _error(values, _range("mse", values, is_symmetric=is_symmetric), is_symmetric)
    for other in ("minmax", "entropy", "percentile:99.9", "percentile:99.99"):
        found = _range(other, values, is_symmetric=is_symmetric)
        assert least <= 1.02 * _error(values, found, is_symmetric)


def test_mse_keeps_the_short_side():
    found = _range("mse", GELU)
    assert found.low == GELU.min()
    assert found.high < GELU.max()


def test_entropy_keeps_an_even_distribution():
    values = np.linspace(-1, 1, 100_000, dtype=np.float32)
    found = _range("entropy", values, is_symmetric=True)
    assert found.high > 0.9
