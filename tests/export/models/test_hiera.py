from copy import deepcopy
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from saymask.export.graph import Stage, trace
from saymask.export.models.folding import fold
from saymask.export.models.hiera import (
    HIERA_SPECS,
    Block,
    FpnNeck,
    Hiera,
    HieraImageEncoder,
    WindowAttention,
)

OFFICIAL = {
    "tiny": (27_219_136, (1, 3, 10), (8, 4, 14)),
    "small": (34_316_992, (1, 3, 14), (8, 4, 14)),
    "base-plus": (69_106_816, (2, 5, 21), (8, 4, 14)),
    "large": (212_703_280, (2, 8, 44), (8, 4, 16)),
}
"""Size -> parameters, blocks that open a stage and their windows."""
SMALL = replace(
    HIERA_SPECS["mini"],
    image_hw=(96, 160),
    width=8,
    depths=(1, 1, 2, 1),
    windows=(8, 4, 6, 3),
    global_blocks=(3,),
    background_hw=(3, 5),
    out_width=16,
)
"""Its third grid of 6 x 10 cells is no whole number of windows, as 64 x 64 in windows of 14."""


@pytest.fixture(scope="module")
def encoder() -> HieraImageEncoder:
    """A small encoder whose position embeddings and norms are not the trivial ones."""
    torch.manual_seed(0)
    network = HieraImageEncoder(SMALL).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("size", OFFICIAL)
def test_official_sizes(size):
    with torch.device("meta"):
        network = HieraImageEncoder(HIERA_SPECS[size])
    parameters, opening, windows = OFFICIAL[size]
    blocks = list(network.trunk.blocks)
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert tuple(i for i, block in enumerate(blocks) if block.proj is not None) == opening
    assert tuple(blocks[i].window for i in opening) == windows
    assert all(blocks[i].window == 0 for i in HIERA_SPECS[size].global_blocks)
    assert tuple(blocks[i + 1].window for i in opening) == HIERA_SPECS[size].windows[1:]


def test_official_names_and_shapes():
    with torch.device("meta"):
        state = HieraImageEncoder(HIERA_SPECS["large"]).state_dict()
    for name, shape in {
        "trunk.pos_embed": (1, 144, 7, 7),
        "trunk.pos_embed_window": (1, 144, 8, 8),
        "trunk.patch_embed.proj.weight": (144, 3, 7, 7),
        "trunk.blocks.1.attn.qkv.weight": (432, 144),
        "trunk.blocks.2.proj.weight": (288, 144),
        "trunk.blocks.2.attn.qkv.weight": (864, 144),
        "trunk.blocks.2.norm1.weight": (144,),
        "trunk.blocks.2.norm2.weight": (288,),
        "trunk.blocks.47.mlp.layers.1.weight": (1152, 4608),
        "neck.convs.0.conv.weight": (256, 1152, 1, 1),
        "neck.convs.3.conv.weight": (256, 144, 1, 1),
    }.items():
        assert state[name].shape == shape, name
    assert "trunk.blocks.1.proj.weight" not in state


@pytest.mark.parametrize("size", HIERA_SPECS)
def test_heads_keep_their_width_and_the_grid_fits(size):
    spec = HIERA_SPECS[size]
    with torch.device("meta"):
        blocks = Hiera(spec).blocks
    widths = {block.attn.proj.out_features // block.attn.heads for block in blocks}
    assert widths == {spec.width // spec.heads}
    assert all(extent % 32 == 0 for extent in spec.image_hw)
    assert all(extent // 4 % spec.windows[0] == 0 for extent in spec.image_hw)


def test_every_norm_has_epsilon_1e_6(encoder):
    norms = [each for each in encoder.modules() if isinstance(each, nn.LayerNorm)]
    assert len(norms) == 2 * sum(SMALL.depths)
    assert {norm.eps for norm in norms} == {1e-6}


def test_every_activation_is_the_exact_gelu(encoder):
    activations = [each for each in encoder.modules() if isinstance(each, nn.GELU)]
    assert len(activations) == sum(SMALL.depths)
    assert {each.approximate for each in activations} == {"none"}


def test_positions_are_a_bicubic_background_and_a_tiled_window(encoder):
    trunk = encoder.trunk
    found = trunk.positions()
    background = functional.interpolate(trunk.pos_embed, (24, 40), mode="bicubic")
    assert found.shape == (1, 24, 40, 8)
    for row, column in ((0, 0), (7, 8), (17, 39)):
        window = trunk.pos_embed_window[0, :, row % 8, column % 8]
        torch.testing.assert_close(found[0, row, column], background[0, :, row, column] + window)


def test_stages_halve_the_grid_and_double_the_channels(encoder):
    stages = encoder.trunk(torch.randn(2, 3, *SMALL.image_hw))
    shapes = [tuple(stage.shape) for stage in stages]
    assert shapes == [(2, 8, 24, 40), (2, 16, 12, 20), (2, 32, 6, 10), (2, 64, 3, 5)]


def _attended(attention: WindowAttention, window: torch.Tensor) -> torch.Tensor:
    """Attend in one window (rows, columns, channels), by hand, pooling where it pools."""
    rows, columns, _ = window.shape
    parts = attention.qkv(window).reshape(rows, columns, 3, attention.heads, -1).unbind(2)
    query, key, value = (part.permute(2, 0, 1, 3) for part in parts)
    if attention.pools_queries:
        pairs = query.reshape(attention.heads, rows // 2, 2, columns // 2, 2, -1)
        query = pairs.amax((2, 4))
        rows, columns = rows // 2, columns // 2
    mixed = functional.scaled_dot_product_attention(*(p.flatten(1, 2) for p in (query, key, value)))
    return attention.proj(mixed.transpose(0, 1).reshape(rows, columns, -1))


@torch.no_grad()
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 16)])
def test_windows_at_the_edge_attend_to_their_empty_cells(inputs, outputs):
    torch.manual_seed(1)
    block = Block(inputs, outputs, 2, window=4).eval()
    cells = torch.randn(1, 6, 8, inputs)
    shrink = 2 if outputs != inputs else 1
    mixed = torch.zeros(6 // shrink, 8 // shrink, outputs)
    normed = functional.pad(block.norm1(cells)[0], (0, 0, 0, 0, 0, 2))
    for top in (0, 4):
        for left in (0, 4):
            window = _attended(block.attn, normed[top : top + 4, left : left + 4])
            place = mixed[top // shrink :, left // shrink :][: 4 // shrink, : 4 // shrink]
            place.copy_(window[: len(place)])
    shortcut = cells[0]
    if shrink == 2:
        projected = block.proj(block.norm1(cells)[0])
        shortcut = projected.reshape(3, 2, 4, 2, outputs).amax((1, 3))
    summed = shortcut + mixed
    expected = summed + block.mlp(block.norm2(summed))
    torch.testing.assert_close(block(cells)[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_global_block_is_one_window(encoder):
    block = encoder.trunk.blocks[3]
    cells = torch.randn(1, 6, 10, 32)
    summed = cells + _attended(block.attn, block.norm1(cells)[0])
    expected = summed + block.mlp(block.norm2(summed))
    torch.testing.assert_close(block(cells), expected, atol=1e-5, rtol=1e-4)


def test_only_stride_16_hears_of_the_deepest_stage():
    torch.manual_seed(2)
    neck = FpnNeck(SMALL).requires_grad_(False)
    stages = [torch.randn(1, 8 << s, 24 >> s, 40 >> s) for s in range(4)]
    stride16, stride8, stride4 = neck(stages)
    deepest, stage2, stage1, stage0 = (
        conv(stage) for conv, stage in zip(neck.convs, reversed(stages), strict=True)
    )
    context = deepest.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(stride16, stage2 + context)
    torch.testing.assert_close(stride8, stage1)
    torch.testing.assert_close(stride4, stage0)


@torch.no_grad()
def test_the_exported_graph_computes_the_same(encoder):
    """Folded as for an engine, which then has no position embedding to scale."""
    image = torch.randn(1, 3, *SMALL.image_hw)
    names = ("stride16", "stride8", "stride4")
    expected = encoder(image)
    folded = deepcopy(encoder)
    fold(folded)
    stage = Stage(name="image", module=folded, examples={"image": image}, outputs=names, varying={})
    model = trace(stage)
    assert [node.op_type for node in model.graph.node].count("Resize") == 1
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(names, {"image": image.numpy()})
    for each, map_ in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, map_.numpy(), atol=1e-4, rtol=0)
