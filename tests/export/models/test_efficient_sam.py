from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from saymask.calibration.session import open_model
from saymask.export.graph import Stage, trace
from saymask.export.models.efficient_sam import (
    EFFICIENT_SAM_SPECS,
    Attention,
    Block,
    EfficientSamImageEncoder,
    EfficientSamVisualModel,
)

OFFICIAL = {"ti": (6_163_840, 10_223_204), "s": (22_353_664, 26_413_028)}
"""Size -> parameters of the image encoder and of all."""
MINI = EFFICIENT_SAM_SPECS["mini"]
SMALL = replace(
    MINI,
    image_hw=(20, 28),
    patch=4,
    positions_hw=(3, 3),
    depth=1,
    mask_decoder=replace(MINI.mask_decoder, grid_hw=(5, 7), frame_hw=(20, 28)),
)


class _Segment(nn.Module):
    """Both stages that meet in the embedding."""

    def __init__(self, visual_model: EfficientSamVisualModel) -> None:
        super().__init__()
        self.visual_model = visual_model

    def forward(self, image: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        return self.visual_model.decode(self.visual_model.encode(image), sparse)


@pytest.fixture(scope="module")
def model() -> EfficientSamVisualModel:
    torch.manual_seed(0)
    model = EfficientSamVisualModel(SMALL)
    nn.init.normal_(model.image_encoder.pos_embed)
    return model.eval().requires_grad_(False)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 3, *SMALL.image_hw, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sparse() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(5, 1, SMALL.mask_decoder.width, generator=generator)


@pytest.mark.parametrize("size", OFFICIAL)
def test_official_sizes(size):
    with torch.device("meta"):
        model = EfficientSamVisualModel(EFFICIENT_SAM_SPECS[size])
    encoder, total = OFFICIAL[size]
    assert sum(each.numel() for each in model.image_encoder.parameters()) == encoder
    assert sum(each.numel() for each in model.parameters()) == total
    assert len(model.state_dict()) == 278


def test_official_names_and_shapes():
    with torch.device("meta"):
        state = EfficientSamImageEncoder(EFFICIENT_SAM_SPECS["ti"]).state_dict()
    for name, shape in {
        "pos_embed": (1, 197, 192),
        "patch_embed.proj.weight": (192, 3, 16, 16),
        "blocks.0.norm1.bias": (192,),
        "blocks.0.attn.qkv.weight": (576, 192),
        "blocks.11.attn.proj.bias": (192,),
        "blocks.11.mlp.fc1.weight": (768, 192),
        "blocks.11.mlp.fc2.weight": (192, 768),
        "neck.0.weight": (256, 192, 1, 1),
        "neck.3.bias": (256,),
    }.items():
        assert state[name].shape == shape, name


@pytest.mark.parametrize("size", EFFICIENT_SAM_SPECS)
def test_the_decoders_grid_has_one_cell_to_a_patch(size):
    spec = EFFICIENT_SAM_SPECS[size]
    grid_hw = tuple(pixels // spec.patch for pixels in spec.image_hw)
    assert spec.mask_decoder.grid_hw == grid_hw


def test_the_encoders_epsilon_is_not_the_decoders(model):
    for part, eps in ((model.image_encoder, 1e-6), (model.mask_decoder, 1e-5)):
        assert {each.eps for each in part.modules() if isinstance(each, nn.LayerNorm)} == {eps}


def test_stored_positions_are_stretched_bicubically_without_the_class_token(model):
    encoder = model.image_encoder
    stored = encoder.pos_embed[0, 1:].reshape(3, 3, -1)
    expected = torch.zeros(5, 7, SMALL.width)
    for row, column in np.ndindex(5, 7):
        for (y, down), (x, along) in product(_taps(row, 5, 3), _taps(column, 7, 3)):
            expected[row, column] += down * along * stored[y, x]
    torch.testing.assert_close(encoder.positions()[0], expected.permute(2, 0, 1))


def _taps(index: int, size: int, stored: int) -> list[tuple[int, float]]:
    """Indices and weights of the cubic with a = -0.75, at half pixel centres, edges repeated."""
    place = (index + 0.5) * stored / size - 0.5
    first = int(np.floor(place))
    taps = []
    for tap in range(first - 1, first + 3):
        far = abs(place - tap)
        if far <= 1:
            weight = 1.25 * far**3 - 2.25 * far**2 + 1
        else:
            weight = -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
        taps.append((min(max(tap, 0), stored - 1), weight))
    return taps


def test_positions_that_fit_are_taken_as_they_are():
    encoder = EfficientSamImageEncoder(replace(SMALL, positions_hw=(5, 7)))
    nn.init.normal_(encoder.pos_embed)
    expected = encoder.pos_embed[0, 1:].reshape(5, 7, -1)
    assert (encoder.positions()[0].permute(1, 2, 0) == expected).all()


def test_positions_belong_to_their_cells(image):
    torch.manual_seed(0)
    encoder = EfficientSamImageEncoder(replace(SMALL, depth=0))
    nn.init.normal_(encoder.pos_embed)
    expected = encoder.neck(encoder.patch_embed(image) + encoder.positions())
    torch.testing.assert_close(encoder(image), expected)


def test_attention_is_scaled_and_global():
    torch.manual_seed(0)
    attention, tokens = Attention(8, 2), torch.randn(2, 6, 8)
    query, key, value = attention.qkv(tokens).view(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(query, key, value)
    expected = attention.proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens), expected)


def test_the_activation_is_the_exact_gelu():
    block, tokens = Block(SMALL), torch.linspace(-9, 9, 320).view(10, 32)
    hidden = block.mlp.fc1(tokens)
    exact = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(block.mlp(tokens), block.mlp.fc2(exact))


def test_a_frame_becomes_a_mask_per_prompt(model, image, sparse):
    features = model.encode(image)
    logits, iou = model.decode(features, sparse)
    assert len(features) == len(model.feature_names)
    assert features[0].shape == (1, 32, 5, 7)
    assert logits.shape == (5, 1, 20, 28)
    assert iou.shape == (5, 1)


def test_the_mask_is_the_single_one(model, image, sparse):
    features = model.encode(image)
    positions = model.prompt_encoder.dense_positions()
    every, every_iou = model.mask_decoder(features[0], positions, sparse, slice(0, 4))
    logits, iou = model.decode(features, sparse)
    torch.testing.assert_close(logits, every[:, :1])
    torch.testing.assert_close(iou, every_iou[:, :1])


def test_the_graph_takes_any_number_of_prompts(model, image, sparse):
    stage = Stage(
        name="segment",
        module=_Segment(model),
        examples={"image": image, "sparse": sparse[:2]},
        outputs=("logits", "iou"),
        varying={"sparse": {0: "phrases"}},
    )
    engine = open_model(trace(stage), threads=1)
    for prompts in (1, 2, 5):
        found = engine.run({"image": image.numpy(), "sparse": sparse[:prompts].numpy()})
        for name, expected in zip(
            stage.outputs, stage.module(image, sparse[:prompts]), strict=True
        ):
            np.testing.assert_allclose(found[name], expected.numpy(), rtol=0, atol=1e-4)
