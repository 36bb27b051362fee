"""Masks at frame size agree with torch's two bilinear steps, and scores with its sigmoid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from saymask.kernels.taps import bilinear, compose
from saymask.kernels.upsample import masks_from_logits


@pytest.mark.parametrize("frame_hw", [(48, 64), (211, 333), (720, 1280)])
@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_same_as_two_steps_of_torch(frame_hw, threshold):
    generator = np.random.default_rng(0)
    logits_nhw = generator.normal(size=(2, 32, 32)).astype(np.float32)
    fitted_hw = tuple(int(side * 128 / max(frame_hw) + 0.5) for side in frame_hw)
    vertical, horizontal = (
        compose(bilinear(32, 128), bilinear(fitted, frame))
        for fitted, frame in zip(fitted_hw, frame_hw, strict=True)
    )
    masks, scores = masks_from_logits(logits_nhw, vertical, horizontal, threshold=threshold)

    view = interpolate(torch.from_numpy(logits_nhw)[None].double(), (128, 128), mode="bilinear")
    expected = interpolate(view[..., : fitted_hw[0], : fitted_hw[1]], frame_hw, mode="bilinear")[0]
    is_clear = (expected - threshold).abs().numpy() > 1e-5
    np.testing.assert_array_equal(masks[is_clear], (expected > threshold).numpy()[is_clear])
    assert is_clear.mean() > 0.999
    means = [plane[plane > threshold].sigmoid().mean() for plane in expected]
    np.testing.assert_allclose(scores, means, atol=1e-4)


def test_empty_masks_and_extreme_logits():
    logits_nhw = np.stack([np.full((4, 4), value, np.float32) for value in (-1e4, 1e4)])
    taps = bilinear(4, 9)
    masks, scores = masks_from_logits(logits_nhw, taps, taps, threshold=0)
    assert masks.any((1, 2)).tolist() == [False, True]
    assert scores.tolist() == [0, 1]
    everything, certainty = masks_from_logits(logits_nhw[:1], taps, taps, threshold=-1e5)
    assert everything.all()
    assert certainty.tolist() == [0]


def test_no_masks():
    masks, scores = masks_from_logits(
        np.zeros((0, 4, 4), np.float32), bilinear(4, 6), bilinear(4, 8), threshold=0
    )
    assert masks.shape == (0, 6, 8)
    assert scores.shape == (0,)
