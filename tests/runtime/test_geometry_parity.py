"""Views and their way back are what the released scripts compute with Pillow and torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, pad

from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.systems.evf_sam import views
from saymask.export.systems.evf_sam_releases import OWN, RELEASES
from saymask.runtime.geometry import back, fit
from saymask.runtime.spec import ViewSpec

Image = pytest.importorskip("PIL.Image")

MEAN, STD = (torch.tensor(each)[:, None, None] for each in (
    (123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
))  # fmt: skip
SIZES = [(1, 1), (2, 3), (3, 1000), (47, 91), (517, 1023), (1023, 517), (333, 333), (2160, 3840)]
XL0 = EVF_SAM_SPECS["efficientvit-xl0-beit3-large"]
L0 = EVF_SAM_SPECS["efficientvit-l0-beit3-large"]


def _frame(frame_hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), np.uint8)


def _view(preprocess: str, spec=XL0) -> ViewSpec:
    return views(spec, replace(OWN, preprocess=preprocess))[0]


def _tensor(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(frame)).permute(2, 0, 1).contiguous()


def _pillow(frame: np.ndarray, size_hw: tuple[int, int]) -> torch.Tensor:
    image = Image.fromarray(frame).resize(size_hw[::-1], Image.Resampling.BILINEAR)
    return _tensor(np.asarray(image))


def _longest_side(frame_hw: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / max(frame_hw)
    return max(int(frame_hw[0] * scale + 0.5), 1), max(int(frame_hw[1] * scale + 0.5), 1)


def _assert_same_pixels(seen: np.ndarray, expected: torch.Tensor, steps: float) -> None:
    """Compare in steps of uint8, padding included."""
    assert seen.dtype == np.float32
    assert seen.shape[1:] == tuple(expected.shape)
    assert ((torch.from_numpy(seen[0]) - expected) * STD).abs().max() <= steps


@pytest.mark.parametrize("frame_hw", SIZES)
@pytest.mark.parametrize("spec", [XL0, L0], ids=["1024", "512"])
def test_pad_is_pillows(frame_hw, spec):
    frame, side = _frame(frame_hw), spec.visual_model.image_hw[0]
    x = (_pillow(frame, _longest_side(frame_hw, side)) - MEAN) / STD
    x = pad(x, (0, side - x.shape[-1], 0, side - x.shape[-2]))
    _assert_same_pixels(fit(frame, _view("pad", spec))[0], x, 1e-4)


@pytest.mark.parametrize("frame_hw", SIZES)
def test_stretch_is_torchs_on_uint8(frame_hw):
    frame = _frame(frame_hw)
    x = interpolate(_tensor(frame)[None], (1024, 1024), mode="bilinear", align_corners=False)[0]
    _assert_same_pixels(fit(frame, _view("stretch"))[0], (x - MEAN) / STD, 1e-4)


@pytest.mark.parametrize("frame_hw", SIZES)
def test_stretch_antialiased_is_pillows(frame_hw):
    frame = _frame(frame_hw)
    x = _pillow(frame, (1024, 1024))
    _assert_same_pixels(fit(frame, _view("stretch-antialiased"))[0], (x - MEAN) / STD, 1e-4)


@pytest.mark.parametrize("frame_hw", SIZES)
def test_fill_is_both(frame_hw):
    frame = _frame(frame_hw)
    x = (_pillow(frame, _longest_side(frame_hw, 1024)) - MEAN) / STD
    x = interpolate(x[None], (1024, 1024), mode="bilinear")[0]
    _assert_same_pixels(fit(frame, _view("fill"))[0], x, 0.05)


@pytest.mark.parametrize("frame_hw", SIZES)
@pytest.mark.parametrize(("beit_view", "is_antialiased"), [("sharp", False), ("smooth", True)])
def test_beits_view_is_torchs_on_floats(frame_hw, beit_view, is_antialiased):
    frame = _frame(frame_hw)
    x = _tensor(frame)[None].float() / 255
    x = interpolate(x, (224, 224), mode="bicubic", align_corners=False, antialias=is_antialiased)
    view = views(XL0, replace(OWN, beit_view=beit_view))[1]
    seen, _ = fit(frame, view)
    assert np.abs(seen - ((x - 0.5) / 0.5).numpy()).max() * 127.5 <= 0.1


@pytest.mark.parametrize("frame_hw", [(47, 91), (517, 1023), (1023, 517), (3, 1000)])
@pytest.mark.parametrize(("preprocess", "spec"), [
    ("pad", XL0), ("pad", L0), ("stretch", XL0), ("stretch-antialiased", XL0), ("fill", XL0),
])  # fmt: skip
def test_the_way_back(frame_hw, preprocess, spec):
    logits = np.random.default_rng(1).normal(size=(2, 256, 256)).astype(np.float32)
    expected = torch.from_numpy(logits)[None].double()
    if preprocess == "pad":  # Of 1024, whatever the encoder's input.
        expected = interpolate(expected, (1024, 1024), mode="bilinear", align_corners=False)
        height, width = _longest_side(frame_hw, 1024)
        expected = expected[..., :height, :width]
    expected = interpolate(expected, frame_hw, mode="bilinear", align_corners=False)[0].numpy()
    _, placement = fit(_frame(frame_hw), _view(preprocess, spec))
    masks, _ = back(logits, placement, threshold=0)
    is_clear = np.abs(expected) > 1e-5
    assert is_clear.mean() > 0.999
    np.testing.assert_array_equal(masks[is_clear], (expected > 0)[is_clear])


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_can_be_seen(release):
    for view in views(XL0, RELEASES[release]):
        image, _ = fit(_frame((30, 40)), view)
        assert image.shape == (1, 3, *view.size_hw)
