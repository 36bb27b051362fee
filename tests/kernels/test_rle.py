"""Run lengths agree with pycocotools to the character."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from saymask.kernels import rle


def _masks() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    noise = [generator.random((h, w)) > 0.5 for h, w in [(1, 1), (1, 9), (9, 1), (7, 5), (64, 48)]]
    blob = np.zeros((480, 640), np.bool_)
    blob[100:300, 50:600] = True
    blob[150:170, 70:90] = False
    corner = np.zeros((33, 17), np.bool_)
    corner[-1, -1] = corner[0, 0] = True
    wrap = np.zeros((5, 4), np.bool_)
    wrap[-1, 0] = wrap[0, 1] = True
    return [*noise, blob, corner, wrap, np.zeros((600, 700), np.bool_), np.ones((6, 4), np.bool_)]


@pytest.mark.parametrize("mask_hw", _masks(), ids=lambda mask: f"{mask.shape}")
def test_same_text_as_pycocotools(mask_hw):
    ours = rle.encode(mask_hw)
    theirs = coco.encode(np.asfortranarray(mask_hw.astype(np.uint8)))
    assert ours == {"size": list(mask_hw.shape), "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(rle.decode(ours), mask_hw)
    np.testing.assert_array_equal(rle.decode(theirs), mask_hw)


def test_a_view_that_is_not_contiguous():
    mask_hw = np.random.default_rng(1).random((20, 30)) > 0.5
    assert rle.encode(mask_hw[::2, ::-3]) == rle.encode(mask_hw[::2, ::-3].copy())


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros((1, 2, 2), np.bool_)])
def test_only_boolean_planes(mask):
    with pytest.raises(ValueError, match=r"bool \(H, W\)"):
        rle.encode(mask)


@pytest.mark.parametrize("counts", ["", "0P", "\x7f", "5"])
def test_damaged_text(counts):
    with pytest.raises(ValueError, match="run lengths must"):
        rle.decode({"size": [3, 4], "counts": counts})
