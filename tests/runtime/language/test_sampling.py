"""Draws follow the probabilities, and repeat with their seed."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.runtime.errors import UsageError
from saymask.runtime.language.sampling import Sampling, choose, log_softmax

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def _draws(logits: np.ndarray = LOGITS, count: int = 4000, **options: float) -> np.ndarray:
    rng, sampling = np.random.default_rng(0), Sampling(**options)
    drawn = [choose(logits, sampling, rng) for _ in range(count)]
    return np.bincount(drawn, minlength=4) / count


def test_the_likeliest():
    assert _draws().tolist() == [0, 1, 0, 0]
    assert choose(np.zeros(4, np.float32), Sampling(), np.random.default_rng(0)) == 0


def test_frequencies():
    np.testing.assert_allclose(_draws(temperature=1.0), [0.1, 0.4, 0.2, 0.3], atol=0.03)
    squared = np.array([0.01, 0.16, 0.04, 0.09])
    np.testing.assert_allclose(_draws(temperature=0.5), squared / squared.sum(), atol=0.03)


def test_the_nucleus_keeps_the_token_that_crosses():
    np.testing.assert_allclose(_draws(temperature=1.0, top_p=0.6), [0, 4 / 7, 0, 3 / 7], atol=0.03)
    assert _draws(temperature=1.0, top_p=0.3).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e30])
def test_temperatures_at_the_ends(temperature):
    found = _draws(temperature=temperature, count=2000)
    expected = [0.25] * 4 if temperature > 1 else [0, 1, 0, 0]
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5},
     {"seed": -1}, {"temperature": float("inf")}],
)  # fmt: skip
def test_numbers_that_make_no_sense(options):
    with pytest.raises(UsageError, match="temperature must be a number from 0, top_p above 0"):
        Sampling(**options)


def test_log_softmax():
    logits = np.array([[1000.0, 1000.0], [0.0, -1000.0]], np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(logits)), [[0.5, 0.5], [1, 0]])
