from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from saymask.calibration.session import open_model
from saymask.export.graph import Stage, trace
from saymask.export.models.folding import fold
from saymask.export.models.qwen_vision import QWEN_VISION_SPECS, QwenVisionSpec, QwenVisionTower

SMALL = QwenVisionSpec(
    image_hw=(24, 24), patch=3, width=32, depth=3, heads=4, mlp_width=40, window=4,
    global_blocks=(1,), language_width=20,
)  # fmt: skip
ODD = replace(SMALL, image_hw=(30, 42))
"""Squares of 5 x 7, of which the last windows of 2 x 2 lack a row and a column."""


def _network(spec: QwenVisionSpec) -> QwenVisionTower:
    torch.manual_seed(0)
    network = QwenVisionTower(spec).eval().requires_grad_(False)
    for each in network.parameters():
        each += 0.1 * torch.randn_like(each)
    return network


@pytest.mark.parametrize(("size", "parameters"), [("3b", 668_684_288), ("7b", 676_550_144)])
def test_official_sizes(size, parameters):
    with torch.device("meta"):
        network = QwenVisionTower(QWEN_VISION_SPECS[size])
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert len(network.state_dict()) == 1 + 32 * 12 + 5


def test_every_norm_has_epsilon_1e_6():
    norms = [each for each in _network(SMALL).modules() if isinstance(each, nn.RMSNorm)]
    assert {each.eps for each in norms} == {1e-6}
    assert len(norms) == 7


def _reach(spec: QwenVisionSpec) -> np.ndarray:
    """Which tokens, in rows and columns, change with the first square of patches."""
    network, pixels = _network(spec), torch.randn(1, 3, *spec.image_hw)
    moved = pixels.clone()
    moved[..., :6, :6] += 1
    changed = (network(moved) - network(pixels)).abs().amax(-1) > 1e-6
    return changed.view(spec.grid_hw).numpy()


def test_windows_end_what_a_token_sees():
    reached = _reach(replace(ODD, global_blocks=()))
    assert np.argwhere(reached).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert _reach(ODD).all()


def test_what_fills_the_last_windows_is_not_seen():
    attention, windows = _network(ODD).blocks[0].attn, _network(ODD).windows
    rotation, bias = _network(ODD).rotation.worked_out(), windows.worked_out()
    tokens = windows.split(torch.randn(2, 10, 14, ODD.width))
    is_filling = windows.split(torch.ones(2, 10, 14, 1)) == 0
    filled = torch.where(is_filling, 7.0, tokens)
    before, after = (attention(each, rotation, bias) for each in (tokens, filled))
    torch.testing.assert_close(after.masked_fill(is_filling, 0), before.masked_fill(is_filling, 0))
    assert not torch.allclose(after, before)


def test_squares_come_back_where_they_were():
    windows = _network(ODD).windows
    places = torch.arange(35.0).view(1, 5, 7, 1)
    patches = places.repeat_interleave(2, 1).repeat_interleave(2, 2)
    squares = windows.split(patches).unflatten(1, (-1, 4))
    assert (squares == squares[:, :, :1]).all()
    torch.testing.assert_close(windows.join(squares[:, :, 0]), places.flatten(1, 2))


def test_a_still_fills_both_frames():
    network, pixels = _network(SMALL), torch.randn(1, 3, *SMALL.image_hw)
    film = torch.stack([pixels, pixels], dim=2)
    expected = network.patch_embed.proj(film)[:, :, 0].permute(0, 2, 3, 1)
    torch.testing.assert_close(network.patch_embed(pixels), expected)


def test_the_graph_takes_any_number_of_views():
    network = _network(ODD)
    fold(network)
    stage = Stage(
        name="vision",
        module=network,
        examples={"pixels": torch.zeros(2, 3, *ODD.image_hw)},
        outputs=("image_embeddings",),
        varying={"pixels": {0: "tiles"}},
    )
    engine = open_model(trace(stage), threads=1)
    for views in (1, 3):
        pixels = torch.randn(views, 3, *ODD.image_hw)
        expected = network(pixels).numpy()
        found = engine.run({"pixels": pixels.numpy()})["image_embeddings"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
