"""Integers stand for the numbers they came from."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration import scales
from saymask.calibration.ranges import Range
from saymask.calibration.scales import affine_uint8, least_scale, symmetric_int8


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(0, 10, 0), (2, 10, 0), (-10, 0, 255), (-10, -5, 255), (-1, 3, 64)]
)
def test_the_range_holds_zero_exactly(low, high, zero):
    scale, point = affine_uint8(Range(low=low, high=high))
    assert scale.dtype == np.float32
    assert point.dtype == np.uint8
    assert scale.shape == point.shape == ()
    assert point == zero
    assert scale * 255 == pytest.approx(max(high, 0) - min(low, 0), rel=1e-6)


def test_a_tensor_of_zeros():
    assert affine_uint8(Range(low=0, high=0)) == (1, 0)


@pytest.mark.parametrize(("shape", "axis"), [((6, 4, 3, 3), 0), ((5, 7), 1)])
def test_each_channel_has_its_scale(shape, axis):
    spread = np.logspace(-3, 2, shape[axis])
    weight = np.random.default_rng(0).normal(size=(*np.delete(shape, axis), shape[axis])) * spread
    weight = np.moveaxis(weight, -1, axis).astype(np.float32)
    integers, scale = symmetric_int8(weight, axis=axis)
    assert integers.dtype == np.int8
    assert scale.dtype == np.float32
    by_channel = np.moveaxis(integers, axis, 0).reshape(shape[axis], -1)
    assert (np.abs(by_channel).max(1) == 127).all()
    error = np.moveaxis(weight, axis, 0).reshape(shape[axis], -1) - by_channel * scale[:, None]
    assert (np.abs(error) <= 0.501 * scale[:, None]).all()


def test_a_channel_of_zeros():
    integers, scale = symmetric_int8(np.zeros((2, 3), np.float32), axis=0)
    assert not integers.any()
    assert scale.tolist() == [1, 1]


def test_a_dead_channels_bias_fits_into_int32():
    weight, bias = np.float32([[1e-12], [1.0]]), np.float32([5.0, 5.0])
    input_scale = np.float32(0.01)
    _, scale = symmetric_int8(weight, axis=0, least=least_scale(bias, input_scale))
    integers = np.rint(bias / (scale * input_scale))
    assert (np.abs(integers) < 2**31).all()
    np.testing.assert_allclose(integers * scale * input_scale, bias, rtol=1e-3)
    assert scale[1] == np.float32(1 / 127)


@pytest.mark.parametrize(("overflow", "bits", "most"), [(True, 7, 63), (False, 8, 127)])
def test_weights_are_small_enough_for_sums_of_16_bits(monkeypatch, overflow, bits, most):
    monkeypatch.setattr(scales, "sums_overflow", lambda: overflow)
    assert scales.weight_bits_here() == bits
    weight = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    integers, scale = symmetric_int8(weight, axis=1, bits=bits)
    assert (np.abs(integers).max(0) == most).all()
    assert (np.abs(weight - integers * scale) <= scale / 2 + 1e-7).all()
    assert (2 * 255 * most < 2**15) == (bits == 7)
