from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from saymask.calibration.session import open_model
from saymask.export.graph import Stage, trace
from saymask.export.models.sam_vit import SAM_VIT_SPECS, Attention, Block, SamVitImageEncoder

OFFICIAL = {"b": (89_670_912, 177), "l": (308_278_272, 345), "h": (637_026_048, 457)}
"""Size -> parameters and tensors."""
MINI = SAM_VIT_SPECS["mini"]
SMALL = replace(
    MINI, image_hw=(20, 28), patch=4, width=8, mlp_width=12, window=3, global_blocks=(1,)
)
"""A grid of 5 x 7: windows of 3 lack a row and two columns."""


def _shaken(module: nn.Module) -> nn.Module:
    """Give every parameter, the zeros and ones too, a value of its own."""
    generator = torch.Generator().manual_seed(0)
    for each in module.parameters():
        each.data += 0.3 * torch.randn(each.shape, generator=generator)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return _shaken(SamVitImageEncoder(MINI))


@pytest.fixture
def grid() -> torch.Tensor:
    return torch.randn(2, *SMALL.grid_hw, SMALL.width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", OFFICIAL)
def test_official_sizes(size):
    with torch.device("meta"):
        network = SamVitImageEncoder(SAM_VIT_SPECS[size])
    parameters, tensors = OFFICIAL[size]
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors


def test_official_names_and_shapes():
    with torch.device("meta"):
        state = SamVitImageEncoder(SAM_VIT_SPECS["b"]).state_dict()
    for name, shape in {
        "pos_embed": (1, 64, 64, 768),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "blocks.0.norm1.bias": (768,),
        "blocks.0.attn.qkv.weight": (2304, 768),
        "blocks.0.attn.proj.bias": (768,),
        "blocks.0.attn.rel_pos_h": (27, 64),
        "blocks.2.attn.rel_pos_w": (127, 64),
        "blocks.11.mlp.lin1.weight": (3072, 768),
        "blocks.11.mlp.lin2.weight": (768, 3072),
        "neck.0.weight": (256, 768, 1, 1),
        "neck.1.weight": (256,),
        "neck.2.weight": (256, 256, 3, 3),
        "neck.3.bias": (256,),
    }.items():
        assert state[name].shape == shape, name
    assert "neck.0.bias" not in state


def test_every_layer_norm_has_epsilon_1e_6(network):
    assert {each.eps for each in network.modules() if isinstance(each, nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize("grid_hw", [(4, 4), (3, 5)])
def test_offsets_meet_the_query_before_it_is_scaled(grid_hw):
    rows, columns = grid_hw
    attention = _shaken(Attention(8, 2, grid_hw))
    grid = torch.randn(2, rows, columns, 8, generator=torch.Generator().manual_seed(1))
    query, key, value = attention.qkv(grid).reshape(2, rows * columns, 3, 2, 4).unbind(2)
    expected = torch.empty(2, rows * columns, 2, 4)
    for head in range(2):
        for cell in range(rows * columns):
            asked = query[:, cell, head]
            scores = [
                (asked * key[:, other, head]).sum(-1) / 4**0.5
                + asked @ attention.rel_pos_h[cell // columns - other // columns + rows - 1]
                + asked @ attention.rel_pos_w[cell % columns - other % columns + columns - 1]
                for other in range(rows * columns)
            ]
            weights = torch.stack(scores, -1).softmax(-1)
            expected[:, cell, head] = (weights.unsqueeze(-1) * value[:, :, head]).sum(1)
    expected = attention.proj(expected.flatten(2)).view(2, rows, columns, 8)
    torch.testing.assert_close(attention(grid), expected)


def test_windows_are_filled_with_zeros_behind_the_norm_and_the_zeros_attend(grid):
    block = _shaken(Block(SMALL, is_global=False))
    normed = block.norm1(grid)
    filled = torch.zeros(2, 6, 9, SMALL.width)
    filled[:, :5, :7] = normed
    mixed = torch.empty_like(filled)
    for row in (0, 3):
        for column in (0, 3, 6):
            window = slice(None), slice(row, row + 3), slice(column, column + 3)
            mixed[window] = block.attn(filled[window])
    found = grid + mixed[:, :5, :7]
    found = found + block.mlp(block.norm2(found))
    torch.testing.assert_close(block(grid), found)


def test_windows_that_fit_are_not_filled(grid):
    block = _shaken(Block(replace(SMALL, window=5), is_global=False))
    square = grid[:, :, :5]
    mixed = square + block.attn(block.norm1(square))
    torch.testing.assert_close(block(square), mixed + block.mlp(block.norm2(mixed)))


@pytest.mark.parametrize(("is_global", "reached"), [(False, 9), (True, 35)])
def test_global_blocks_alone_look_past_their_window(grid, is_global, reached):
    block = _shaken(Block(SMALL, is_global=is_global))
    moved = grid.clone()
    moved[0, 0, 0, 0] += 9
    changed = (block(moved) - block(grid)).abs().amax(-1) > 0
    assert changed.sum((1, 2)).tolist() == [reached, 0]


def test_the_spec_says_which_blocks_are_global(network):
    assert [block.window for block in network.blocks] == [7, None, 7]
    assert [len(block.attn.rel_pos_h) for block in network.blocks] == [13, 19, 13]


def test_the_activation_is_the_exact_gelu():
    block = _shaken(Block(SMALL, is_global=False))
    tokens = torch.linspace(-9, 9, 80).view(10, 8)
    hidden = block.mlp.lin1(tokens)
    exact = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(block.mlp(tokens), block.mlp.lin2(exact))


def test_grids_need_not_be_square():
    found = _shaken(SamVitImageEncoder(SMALL))(torch.randn(2, 3, *SMALL.image_hw))
    assert found.shape == (2, SMALL.out_width, 5, 7)


def test_positions_belong_to_their_cells():
    network = _shaken(SamVitImageEncoder(replace(SMALL, depth=0, global_blocks=())))
    image = torch.randn(1, 3, *SMALL.image_hw)
    patches = functional.conv2d(
        image, network.patch_embed.proj.weight, network.patch_embed.proj.bias, stride=4
    )
    tokens = patches + network.pos_embed.permute(0, 3, 1, 2)
    torch.testing.assert_close(network(image), network.neck(tokens))


def test_the_graph_computes_what_the_network_does():
    network = _shaken(SamVitImageEncoder(replace(SMALL, depth=2)))
    image = torch.randn(1, 3, *SMALL.image_hw, generator=torch.Generator().manual_seed(2))
    stage = Stage(
        name="image",
        module=network,
        examples={"image": image},
        outputs=("image_embedding",),
        varying={},
    )
    found = open_model(trace(stage), threads=1).run({"image": image.numpy()})
    expected = network(image).numpy()
    np.testing.assert_allclose(found["image_embedding"], expected, rtol=0, atol=1e-4)
