"""Taps are windows inside the source whose weights sum to one, and two steps compose to one."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.kernels.taps import bicubic, bilinear, compose, resample

SIZES = [(1, 1), (1, 7), (7, 1), (5, 13), (13, 5), (100, 100), (1920, 128)]


@pytest.mark.parametrize("is_antialiased", [False, True])
@pytest.mark.parametrize("filtered", [bilinear, bicubic])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_windows_lie_inside_and_keep_a_constant(filtered, source, target, is_antialiased):
    taps = filtered(source, target, is_antialiased=is_antialiased)
    assert len(taps.start) == target
    assert taps.start.min() >= 0
    assert taps.start.max() + taps.weight.shape[1] <= source
    np.testing.assert_allclose(taps.weight.sum(1), 1, atol=1e-6)


def test_the_same_size_copies():
    samples = np.random.default_rng(0).random((9, 3), np.float32)
    np.testing.assert_array_equal(resample(samples, bilinear(9, 9)), samples)


@pytest.mark.parametrize("frame", [300, 1000, 1500])
def test_compose_is_both_steps(frame):
    samples = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    first, second = bilinear(64, 1024), bilinear(700, frame)
    composed = compose(first, second)
    assert composed.weight.shape[1] <= 3
    expected = resample(resample(samples, first)[:700], second)
    np.testing.assert_allclose(resample(samples, composed), expected, atol=1e-5)
