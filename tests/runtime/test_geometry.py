"""A frame finds its place in a view, and what was found in the view its place in the frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from saymask.runtime.errors import FrameError, UnknownNameError
from saymask.runtime.geometry import back, fit, inside_hw
from saymask.runtime.spec import ViewSpec

SAM = ViewSpec(
    name="sam",
    size_hw=(64, 64),
    fit="pad",
    interpolation="bilinear",
    is_antialiased=True,
    rounds_to_uint8=False,
    mean_rgb=(123.675, 116.28, 103.53),
    std_rgb=(58.395, 57.12, 57.375),
    canvas_hw=(64, 64),
)
BEIT = replace(SAM, name="beit", fit="stretch", interpolation="bicubic", is_antialiased=False)
WIDE = replace(SAM, size_hw=(48, 96), canvas_hw=(48, 96))
FRAME = np.random.default_rng(0).integers(0, 256, (47, 91, 3), np.uint8)


def _with_torch(view: ViewSpec, size_hw: tuple[int, int]) -> np.ndarray:
    image = torch.from_numpy(FRAME).permute(2, 0, 1)[None].double()
    image = interpolate(image, size_hw, mode=view.interpolation, antialias=view.is_antialiased)
    mean, std = (torch.tensor(value)[:, None, None] for value in (view.mean_rgb, view.std_rgb))
    return ((image - mean) / std).numpy()


def test_pad_scales_the_longest_side():
    image, placement = fit(FRAME, SAM)
    assert placement.frame_hw == (47, 91)
    np.testing.assert_allclose(image[:, :, :33], _with_torch(SAM, (33, 64)), atol=1e-5)
    assert not image[:, :, 33:].any()


def test_stretch_fills_the_view():
    image, _ = fit(FRAME, BEIT)
    np.testing.assert_allclose(image, _with_torch(BEIT, (64, 64)), atol=1e-5)


def test_where_a_frame_ends_on_its_canvas():
    view = replace(SAM, canvas_hw=(128, 128))
    assert inside_hw(fit(FRAME, view)[1]) == (66, 128)
    assert inside_hw(fit(FRAME, replace(view, fit="stretch"))[1]) == (128, 128)


def test_fill_keeps_the_aspect_first():
    image, _ = fit(FRAME, replace(SAM, fit="fill"))
    scaled = torch.from_numpy(fit(FRAME, SAM)[0])[:, :, :33].double()
    expected = interpolate(scaled, (64, 64), mode="bilinear").numpy()
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_rounded_views_hold_whole_steps():
    view = replace(SAM, rounds_to_uint8=True, mean_rgb=(0, 0, 0), std_rgb=(1, 1, 1))
    image, _ = fit(FRAME, view)
    np.testing.assert_array_equal(image, image.round())
    smooth, _ = fit(FRAME, replace(view, rounds_to_uint8=False))
    assert np.abs(image - smooth).max() < 1.01


@pytest.mark.parametrize("frame_hw", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_frames_keep_a_pixel(frame_hw):
    image, placement = fit(np.zeros((*frame_hw, 3), np.uint8), SAM)
    assert image.shape == (1, 3, 64, 64)
    masks, _ = back(np.ones((1, 16, 16), np.float32), placement, threshold=0)
    assert masks.shape == (1, *frame_hw)
    assert masks.all()


@pytest.mark.parametrize(
    "view",
    [
        SAM,
        BEIT,
        WIDE,
        replace(WIDE, fit="stretch"),
        replace(WIDE, fit="fill"),
        replace(SAM, canvas_hw=(128, 128)),
        replace(BEIT, canvas_hw=(1, 1)),
    ],
)
def test_back_finds_the_square_again(view):
    frame = np.zeros((120, 200, 3), np.uint8)
    frame[30:70, 50:150] = 255
    image, placement = fit(frame, view)
    masks, _ = back(image[:, 0], placement, threshold=float(image.mean()))
    assert (masks[0] == (frame[..., 0] > 0)).mean() > 0.97


def test_stretched_logits_take_one_step():
    logits = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    masks, _ = back(logits, fit(FRAME, BEIT)[1], threshold=0)
    expected = interpolate(torch.from_numpy(logits)[None].double(), (47, 91), mode="bilinear")
    np.testing.assert_array_equal(masks, (expected[0] > 0).numpy())


@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"uint8 \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \(0, 4, 3\)"),
        ([[1]], "list"),
        (None, "NoneType"),
    ],
)
def test_bad_frames(frame, got):
    with pytest.raises(FrameError, match=rf"uint8 \(H, W, 3\) RGB .* got {got}; scale floats"):
        fit(frame, SAM)


def test_unknown_names_are_listed():
    with pytest.raises(UnknownNameError, match="one of fill, pad, stretch; got 'crop'"):
        fit(FRAME, replace(SAM, fit="crop"))
    with pytest.raises(UnknownNameError, match="one of bicubic, bilinear; got 'lanczos'"):
        fit(FRAME, replace(SAM, interpolation="lanczos"))
