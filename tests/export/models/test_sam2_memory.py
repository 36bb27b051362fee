import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from saymask.export.models.sam2_memory import (
    UPSTREAM_NAMES,
    CXBlock,
    MaskDownSampler,
    MemoryAttention,
    MemoryEncoder,
    MemorySpec,
    RotaryAttention,
    axial_rotation,
    rotate,
    sine_positions,
)

OFFICIAL = MemorySpec(width=64, layers=4, mlp_width=2048, slots=7, pointers=16)
SMALL = MemorySpec(width=8, layers=2, mlp_width=24, slots=3, pointers=4)
GRID_HW = (3, 5)


def _randomized(module: nn.Module) -> nn.Module:
    for parameter in module.requires_grad_(False).parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


@pytest.fixture
def attention() -> MemoryAttention:
    torch.manual_seed(0)
    return _randomized(MemoryAttention(16, SMALL))


def test_official_sizes_and_names():
    with torch.device("meta"):
        parts = nn.ModuleDict(
            {
                "memory_attention": MemoryAttention(256, OFFICIAL),
                "memory_encoder": MemoryEncoder(256, OFFICIAL),
            }
        )
    counts = [sum(p.numel() for p in part.parameters()) for part in parts.values()]
    assert counts == [5_922_304, 1_384_608]
    state = parts.state_dict()
    for name, shape in {
        "memory_attention.layers.3.self_attn.k_proj.weight": (256, 256),
        "memory_attention.layers.3.cross_attn_image.k_proj.weight": (256, 64),
        "memory_attention.layers.0.linear1.weight": (2048, 256),
        "memory_attention.norm.weight": (256,),
        "memory_encoder.mask_downsampler.encoder.0.weight": (4, 1, 3, 3),
        "memory_encoder.mask_downsampler.encoder.10.weight": (256,),
        "memory_encoder.mask_downsampler.encoder.12.weight": (256, 256, 1, 1),
        "memory_encoder.fuser.layers.1.dwconv.weight": (256, 1, 7, 7),
        "memory_encoder.fuser.layers.1.weight": (256,),
        "memory_encoder.out_proj.weight": (64, 256, 1, 1),
    }.items():
        assert state[name].shape == shape, name
    assert set(UPSTREAM_NAMES.values()) <= state.keys()
    assert len(UPSTREAM_NAMES) == 2
    assert all(name.endswith(".gamma") for name in UPSTREAM_NAMES)


def test_sine_positions_tell_the_row_then_the_column():
    positions = sine_positions(GRID_HW, 16)
    assert positions.shape == (1, 16, *GRID_HW)
    for row, column in ((0, 0), (2, 1), (1, 4)):
        for half, place in ((0, (row + 1) / 3), (8, (column + 1) / 5)):
            for wave in range(4):
                angle = 2 * math.pi * place / 10_000 ** (2 * wave / 8)
                sine, cosine = positions[0, half + 2 * wave : half + 2 * wave + 2, row, column]
                assert sine.item() == pytest.approx(math.sin(angle), abs=1e-5)
                assert cosine.item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_rotations_turn_pairs_first_by_the_column_then_by_the_row():
    tokens = torch.randn(2, 15, 16)
    turned = torch.view_as_complex(
        rotate(tokens, axial_rotation(GRID_HW, 16)).unflatten(-1, (8, 2))
    )
    pairs = torch.view_as_complex(tokens.unflatten(-1, (8, 2)))
    for cell in range(15):
        for pair in range(8):
            place = cell % 5 if pair < 4 else cell // 5
            angle = torch.tensor(place * 10_000 ** (-4 * (pair % 4) / 16))
            expected = pairs[:, cell, pair] * torch.polar(torch.ones(()), angle)
            torch.testing.assert_close(turned[:, cell, pair], expected)


def test_rotated_products_depend_on_the_offset_alone():
    rotation = axial_rotation(GRID_HW, 16)
    query, key = (rotate(torch.randn(1, 16).expand(15, -1), rotation) for _ in range(2))
    products = (query @ key.T).reshape(3, 5, 3, 5)
    torch.testing.assert_close(products[0, 1, 1, 3], products[1, 2, 2, 4])
    assert (products[0, 1, 1, 3] - products[0, 1, 1, 2]).abs() > 1e-3


@torch.no_grad()
def test_every_grid_is_rotated_alike_and_placeless_keys_are_not():
    torch.manual_seed(0)
    attention = RotaryAttention(16, 8)
    query, grids, others = torch.randn(1, 15, 16), torch.randn(1, 2, 15, 8), torch.randn(1, 4, 8)
    rotation = axial_rotation(GRID_HW, 16)
    keys = [rotate(attention.k_proj(grids[:, index]), rotation) for index in range(2)]
    expected = functional.scaled_dot_product_attention(
        rotate(attention.q_proj(query), rotation),
        torch.cat([*keys, attention.k_proj(others)], dim=1),
        attention.v_proj(torch.cat([grids.flatten(1, 2), others], dim=1)),
    )
    found = attention(query, grids, grids, rotation, placeless=others)
    torch.testing.assert_close(found, attention.out_proj(expected), atol=1e-5, rtol=1e-4)


def test_positions_are_added_to_the_keys_alone(attention):
    layer = attention.layers[0].cross_attn_image
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1:3]))
    memories, positions = torch.randn(1, 3, 15, 8), torch.randn(1, 3, 15, 8)
    image, pointers = torch.randn(1, 16, *GRID_HW), torch.randn(1, 2, 8)
    found = attention(image, memories, positions, pointers, torch.zeros(1, 1, 1, 47))
    hook.remove()
    assert found.shape == image.shape
    torch.testing.assert_close(seen[0], (memories + positions, memories))


def test_a_tenth_of_the_places_is_added_to_the_frame(attention):
    seen = []
    hook = attention.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image, nothing = torch.randn(1, 16, *GRID_HW), torch.zeros(1, 1, 15, 8)
    attention(image, nothing, nothing, torch.zeros(1, 1, 8), torch.zeros(1, 1, 1, 16))
    hook.remove()
    expected = image + 0.1 * sine_positions(GRID_HW, 16)
    torch.testing.assert_close(seen[0], expected.flatten(2).transpose(1, 2))


@torch.no_grad()
def test_a_blocks_weight_scales_its_branch():
    torch.manual_seed(0)
    block = CXBlock(8)
    features = torch.randn(1, 8, 9, 9)
    torch.testing.assert_close(block(features), features, atol=1e-4, rtol=0)
    block.weight.fill_(2.0)
    branch = block(features) - features
    cells = block.norm(block.dwconv(features)).movedim(1, -1)
    expected = block.pwconv2(functional.gelu(block.pwconv1(cells))).movedim(-1, 1)
    torch.testing.assert_close(branch, 2 * expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_mask_shrinks_sixteen_times_and_meets_its_frame():
    torch.manual_seed(0)
    assert MaskDownSampler(12)(torch.randn(2, 1, 48, 80)).shape == (2, 12, *GRID_HW)
    encoder = _randomized(MemoryEncoder(16, SMALL))
    image, masks = torch.randn(1, 16, *GRID_HW), torch.randn(2, 1, 48, 80)
    together = encoder(image, masks)
    assert together.shape == (2, 8, *GRID_HW)
    torch.testing.assert_close(together[1:], encoder(image, masks[1:]), atol=1e-5, rtol=1e-4)
