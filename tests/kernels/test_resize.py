"""Resizing agrees with torch's interpolate in every mode; normalising pads with zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saymask.kernels.resize import normalize_nchw, resize_chw

SIZES = [
    ((37, 53), (16, 20)),
    ((37, 53), (64, 91)),
    ((53, 37), (53, 91)),
    ((1, 7), (5, 3)),
    ((2, 2), (9, 9)),
    ((480, 641), (128, 96)),
]


@pytest.mark.parametrize("is_antialiased", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("source_hw", "size_hw"), SIZES)
def test_same_as_torch(source_hw, size_hw, interpolation, is_antialiased):
    image_hwc = np.random.default_rng(0).integers(0, 256, (*source_hw, 3), np.uint8)
    # In double precision: torch rounds its source coordinates to float32 otherwise.
    image_nchw = torch.from_numpy(image_hwc).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(
        image_nchw, size_hw, mode=interpolation, antialias=is_antialiased
    )
    resized = resize_chw(
        image_hwc, size_hw, interpolation=interpolation, is_antialiased=is_antialiased
    )
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected[0].numpy(), atol=1e-4)


@pytest.fixture(params=["noise", "black and white"])
def uint8_hwc(request):
    """Makes (H, W, 3) uint8 images; extremes make cubics overshoot."""

    def make(source_hw):
        noise = np.random.default_rng(0).integers(0, 256, (*source_hw, 3), np.uint8)
        return noise if request.param == "noise" else np.where(noise > 127, 255, 0).astype(np.uint8)

    return make


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("source_hw", "size_hw"), SIZES)
def test_rounded_is_torch_on_uint8(uint8_hwc, source_hw, size_hw, interpolation):
    image_hwc = uint8_hwc(source_hw)
    image_nchw = torch.from_numpy(image_hwc).permute(2, 0, 1).contiguous()[None]
    expected = torch.nn.functional.interpolate(image_nchw, size_hw, mode=interpolation)
    resized = resize_chw(
        image_hwc,
        size_hw,
        interpolation=interpolation,
        is_antialiased=False,
        rounds_to_uint8=True,
    )
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, expected[0].numpy())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("source_hw", "size_hw"), SIZES)
def test_rounded_and_antialiased_is_pillow(uint8_hwc, source_hw, size_hw, interpolation):
    pillow = pytest.importorskip("PIL.Image")
    image_hwc = uint8_hwc(source_hw)
    expected = pillow.fromarray(image_hwc).resize(
        size_hw[::-1], getattr(pillow.Resampling, interpolation.upper())
    )
    resized = resize_chw(
        image_hwc, size_hw, interpolation=interpolation, is_antialiased=True, rounds_to_uint8=True
    )
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("rounds_to_uint8", [False, True])
def test_a_view_that_is_not_contiguous(rounds_to_uint8):
    image_hwc = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    turned = image_hwc[::-1, :, ::-1]
    options = {
        "interpolation": "bilinear",
        "is_antialiased": False,
        "rounds_to_uint8": rounds_to_uint8,
    }
    np.testing.assert_array_equal(
        resize_chw(turned, (8, 8), **options), resize_chw(turned.copy(), (8, 8), **options)
    )


def test_normalize_pads_right_and_below():
    image_chw = np.full((3, 2, 4), 10, np.float32)
    padded = normalize_nchw(image_chw, (5, 4), mean=(0, 5, 10), std=(1, 2, 3))
    assert padded.shape == (1, 3, 5, 4)
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(padded[0, :, :2, 0], [[10, 10], [2.5, 2.5], [0, 0]])
    assert not padded[0, :, 2:].any()
