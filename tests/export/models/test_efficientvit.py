from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from saymask.calibration.session import open_model
from saymask.export.graph import Stage, trace
from saymask.export.models.efficientvit import (
    EFFICIENTVIT_SPECS,
    ConvLayer,
    EfficientViTSamImageEncoder,
    LiteMLA,
)
from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.models.sam import LayerNorm2d
from saymask.export.models.sam_visual import SamVisualModel

OFFICIAL = {
    "l0": (30_728_224, 34_792_784, 409, 108),
    "l1": (43_585_568, 47_650_128, 515, 150),
    "l2": (57_264_032, 61_328_592, 645, 204),
    "xl0": (112_893_344, 116_957_904, 455, 132),
    "xl1": (199_281_568, 203_346_128, 701, 234),
}
"""Size -> parameters of the image encoder and of all, tensors of all, BatchNorm buffers."""
SMALL = replace(
    EFFICIENTVIT_SPECS["l0"],
    image_hw=(64, 96),
    grid_hw=(8, 12),
    widths=(4, 4, 8, 16, 32),
    depths=(1, 1, 1, 1, 1),
    head_width=8,
    neck_width=12,
    neck_depth=1,
    out_width=16,
)


@pytest.fixture
def attention() -> LiteMLA:
    torch.manual_seed(0)
    return LiteMLA(16, 8, 5).eval()


@pytest.mark.parametrize("size", OFFICIAL)
def test_official_sizes(size):
    with torch.device("meta"):
        network = SamVisualModel(EVF_SAM_SPECS[f"efficientvit-{size}-beit3-base"].visual_model)
    encoder, total, tensors, buffers = OFFICIAL[size]
    assert sum(each.numel() for each in network.image_encoder.parameters()) == encoder
    assert sum(each.numel() for each in network.parameters()) == total
    assert len(network.state_dict()) == tensors
    assert len(list(network.image_encoder.buffers())) == buffers


def test_official_names_and_shapes():
    with torch.device("meta"):
        large = EfficientViTSamImageEncoder(EFFICIENTVIT_SPECS["l0"]).state_dict()
        extra = EfficientViTSamImageEncoder(EFFICIENTVIT_SPECS["xl0"]).state_dict()
    attention = "backbone.stages.4.op_list.1.context_module.main"
    for name, shape in {
        "backbone.stages.0.op_list.0.conv.weight": (32, 3, 3, 3),
        "backbone.stages.0.op_list.0.norm.running_var": (32,),
        "backbone.stages.0.op_list.1.main.conv2.norm.weight": (32,),
        "backbone.stages.1.op_list.0.main.spatial_conv.conv.weight": (512, 32, 3, 3),
        "backbone.stages.3.op_list.0.main.inverted_conv.conv.bias": (2048,),
        "backbone.stages.3.op_list.1.main.depth_conv.conv.weight": (1024, 1, 3, 3),
        f"{attention}.qkv.conv.weight": (1536, 512, 1, 1),
        f"{attention}.aggreg.0.0.weight": (1536, 1, 5, 5),
        f"{attention}.aggreg.0.1.weight": (1536, 32, 1, 1),
        f"{attention}.proj.conv.weight": (512, 1024, 1, 1),
        f"{attention}.proj.norm.bias": (512,),
        "backbone.stages.4.op_list.4.local_module.main.point_conv.norm.weight": (512,),
        "neck.input_ops.0.op_list.0.conv.weight": (256, 512, 1, 1),
        "neck.input_ops.2.op_list.0.norm.weight": (256,),
        "neck.middle.op_list.3.main.point_conv.conv.weight": (256, 256, 1, 1),
        "neck.output_ops.0.op_list.0.conv.bias": (256,),
        "norm.weight": (256,),
    }.items():
        assert large[name].shape == shape, name
    attention = "backbone.stages.5.op_list.3.context_module.main"
    assert extra[f"{attention}.aggreg.0.0.weight"].shape == (3072, 1, 3, 3)
    assert extra["neck.middle.op_list.5.main.spatial_conv.conv.weight"].shape == (1024, 256, 3, 3)
    inner = "backbone.stages.4.op_list.1.local_module.main.depth_conv"
    assert f"{inner}.conv.bias" in large
    assert f"{inner}.norm.weight" not in large


@pytest.mark.parametrize("image_hw", [(64, 96), (40, 72)])
def test_any_image_comes_out_on_the_grid(image_hw):
    torch.manual_seed(0)
    network = EfficientViTSamImageEncoder(SMALL).eval()
    with torch.no_grad():
        found = network(torch.randn(2, 3, *image_hw))
    assert found.shape == (2, SMALL.out_width, *SMALL.grid_hw)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, *SMALL.grid_hw), atol=1e-5, rtol=0)


def test_every_norm_has_epsilon_1e_6():
    network = EfficientViTSamImageEncoder(SMALL)
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d | LayerNorm2d)]
    assert len(norms) > 10
    assert {norm.eps for norm in norms} == {1e-6}


def test_the_activation_is_the_tanh_gelu():
    layer = ConvLayer(1, 1, 1, has_norm=False)
    nn.init.ones_(layer.conv.weight)
    values = torch.linspace(-4, 4, 101).reshape(1, 1, 1, -1)
    inner = (2 / torch.pi) ** 0.5 * (values + 0.044715 * values**3)
    torch.testing.assert_close(layer(values), 0.5 * values * (1 + torch.tanh(inner)))


def _unscaled(qkv: torch.Tensor, head_width: int) -> torch.Tensor:
    """Linear attention as the paper has it, by hand and in float64."""
    batch, channels, height, width = qkv.shape
    heads = qkv.double().reshape(batch, channels // (3 * head_width), 3, head_width, -1)
    query, key, value = heads[:, :, 0].relu(), heads[:, :, 1].relu(), heads[:, :, 2]
    weights = torch.einsum("bhdk,bhdq->bhkq", key, query)
    mixed = torch.einsum("bhdk,bhkq->bhdq", value, weights) / (weights.sum(2)[:, :, None] + 1e-15)
    return mixed.reshape(batch, -1, height, width)


@pytest.mark.parametrize("size_hw", [(3, 4), (9, 7)])
def test_linear_attention_is_the_papers(attention, size_hw):
    qkv = torch.randn(2, 96, *size_hw, dtype=torch.float64)
    found = attention.attend(qkv)
    torch.testing.assert_close(found, _unscaled(qkv, 8), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(attention.attend(qkv.float()).double(), found, atol=1e-4, rtol=1e-3)


def test_linear_attention_of_nothing_is_nothing(attention):
    assert (attention.attend(-torch.ones(1, 48, 4, 4)) == 0).all()


def test_linear_attention_of_nothing_is_nothing_in_the_graph_too(attention):
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, qkv):
            return self.attention.attend(qkv)

    qkv = torch.randn(1, 48, 6, 7)
    stage = Stage(
        name="attend", module=Attend(), examples={"qkv": qkv}, outputs=("mixed",), varying={}
    )
    engine = open_model(trace(stage), threads=1)
    assert np.isfinite(engine.run({"qkv": qkv.numpy()})["mixed"]).all()
    assert not engine.run({"qkv": -qkv.abs().numpy()})["mixed"].any()


def test_linear_attention_of_a_large_grid_stays_in_half_precision(attention):
    qkv = torch.full((1, 48, 64, 64), 20.0)
    assert torch.finfo(torch.float16).max < 20 * 64 * 64
    torch.testing.assert_close(attention.attend(qkv.half()), qkv[:, :16].half())


def test_attention_mixes_two_scales(attention):
    features = torch.randn(1, 16, 6, 6)
    with torch.no_grad():
        fine = attention.qkv(features)
        both = torch.cat([fine, attention.aggreg[0](fine)], 1)
        torch.testing.assert_close(
            attention(features), attention.proj(_unscaled(both, 8).float()), atol=1e-5, rtol=1e-4
        )
