"""Taps are windows inside the source whose weights sum to one, and two steps compose to one."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.kernels.taps import bicubic, bilinear, compose, resample, resample_uint8

SIZES = [(1, 1), (1, 7), (7, 1), (5, 13), (13, 5), (100, 100), (1920, 128)]


@pytest.mark.parametrize("is_fixed_point", [False, True])
@pytest.mark.parametrize("is_antialiased", [False, True])
@pytest.mark.parametrize("filtered", [bilinear, bicubic])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_windows_lie_inside_and_keep_a_constant(
    filtered, source, target, is_antialiased, is_fixed_point
):
    taps = filtered(source, target, is_antialiased=is_antialiased, is_fixed_point=is_fixed_point)
    assert len(taps.start) == target
    assert taps.start.min() >= 0
    assert taps.start.max() + taps.weight.shape[1] <= source
    atol = 2.0**-13 if is_fixed_point and not is_antialiased else 1e-5
    np.testing.assert_allclose(taps.weight.sum(1), 1, atol=atol)


def test_the_same_size_copies():
    samples = np.random.default_rng(0).random((9, 3), np.float32)
    np.testing.assert_array_equal(resample(samples, bilinear(9, 9)), samples)


def test_fixed_point_weights_are_whole_numbers_that_fit():
    pillow = bilinear(1920, 1024, is_antialiased=True, is_fixed_point=True).weight * 2**22
    np.testing.assert_array_equal(pillow, pillow.round())
    torch = bilinear(12, 10, is_fixed_point=True).weight * 2**15  # The largest weight is 0.9.
    np.testing.assert_array_equal(torch, torch.round())
    assert (torch % 2).any()


def test_halves_round_up_and_overshoots_are_clipped():
    samples = np.array([[0, 1], [1, 2]], np.uint8)
    half = bilinear(2, 1, is_fixed_point=True)
    np.testing.assert_array_equal(resample_uint8(samples, half), [[1, 2]])
    edge = np.array([0, 0, 255, 255], np.uint8)
    cubic = resample_uint8(edge, bicubic(4, 16, is_fixed_point=True))
    assert cubic.dtype == np.uint8
    assert (np.diff(cubic.astype(int)) >= 0).all()


@pytest.mark.parametrize("frame", [300, 1000, 1500])
def test_compose_is_both_steps(frame):
    samples = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    first, second = bilinear(64, 1024), bilinear(700, frame)
    composed = compose(first, second)
    assert composed.weight.shape[1] <= 3
    expected = resample(resample(samples, first)[:700], second)
    np.testing.assert_allclose(resample(samples, composed), expected, atol=1e-5)
