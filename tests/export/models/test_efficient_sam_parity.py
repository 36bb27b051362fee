import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from saymask.export.models.efficient_sam import (
    EFFICIENT_SAM_SPECS,
    EfficientSamSpec,
    EfficientSamVisualModel,
)
from saymask.export.models.sam import SamSpec

pytestmark = pytest.mark.parity

REFERENCE = "yformer/EfficientSAM"
SPECS = {
    "mini": EFFICIENT_SAM_SPECS["mini"],
    "odd": EfficientSamSpec(
        image_hw=(220, 220), patch=20, positions_hw=(11, 11), width=24, depth=3,
        heads=3, mlp_width=60,
        mask_decoder=SamSpec(
            width=48, heads=6, mlp_width=50, grid_hw=(11, 11), frame_hw=(220, 220), eps=1e-5
        ),
        mask_choice="single",
    ),
}  # fmt: skip
"""The odd one's stored positions fit its grid: the reference stores 224 // patch of them."""


@pytest.fixture(scope="module")
def official(references) -> Iterator[ModuleType]:
    """The reference's module of all parts, taken from its clone."""
    if not Path(references, "EfficientSAM").is_dir():
        pytest.skip(f"{references} has no clone of {REFERENCE}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(references, "EfficientSAM"))
        yield importlib.import_module("efficient_sam.efficient_sam")
    for name in [name for name in sys.modules if name.split(".")[0] == "efficient_sam"]:
        del sys.modules[name]


def build_reference(official: ModuleType, spec: EfficientSamSpec) -> nn.Module:
    """Build an EfficientSAM of the reference's own parts with a value in every parameter."""
    torch.manual_seed(0)
    decoder, side = spec.mask_decoder, spec.image_hw[0]
    options = {"normalize_before_activation": False, "activation": nn.GELU}
    model = official.EfficientSam(
        image_encoder=official.ImageEncoderViT(
            img_size=side, patch_size=spec.patch, in_chans=3, patch_embed_dim=spec.width,
            normalization_type="layer_norm", depth=spec.depth, num_heads=spec.heads,
            mlp_ratio=spec.mlp_width / spec.width, neck_dims=[decoder.width] * 2,
            act_layer=nn.GELU,
        ),
        prompt_encoder=official.PromptEncoder(decoder.width, decoder.grid_hw, spec.image_hw),
        decoder_max_num_input_points=6,
        mask_decoder=official.MaskDecoder(
            transformer_dim=decoder.width,
            transformer=official.TwoWayTransformer(
                depth=2, embedding_dim=decoder.width, num_heads=decoder.heads,
                mlp_dim=decoder.mlp_width, **options,
            ),
            num_multimask_outputs=3, normalization_type="layer_norm", iou_head_depth=2,
            iou_head_hidden_dim=decoder.width,
            upscaling_layer_dims=[decoder.width // 4, decoder.width // 8], **options,
        ),
    )  # fmt: skip
    for each in model.parameters():
        each.data += 0.1 * torch.randn_like(each)
    return model.eval().requires_grad_(False)


def _ours(reference: nn.Module, spec: EfficientSamSpec) -> EfficientSamVisualModel:
    model = EfficientSamVisualModel(spec)
    model.load_state_dict(reference.state_dict())
    return model.eval().requires_grad_(False)


def _decoded(reference: nn.Module, embedding: Tensor, sparse: Tensor, *, all_four: bool) -> Tensor:
    """Decode as EVF-SAM calls the reference, with the phrases as queries of one image."""
    positions = reference.prompt_encoder.get_dense_pe()
    single, _ = reference.mask_decoder(embedding, positions, sparse[None], multimask_output=False)
    if not all_four:
        return single
    others, _ = reference.mask_decoder(embedding, positions, sparse[None], multimask_output=True)
    return torch.cat([single, others], dim=1)


@pytest.mark.parametrize(("size", "width", "heads"), [("ti", 192, 3), ("s", 384, 6)])
def test_official_layouts(official, size, width, heads):
    with torch.device("meta"):
        reference = official.build_efficient_sam(width, heads).state_dict()
        ours = EfficientSamVisualModel(EFFICIENT_SAM_SPECS[size]).state_dict()
    assert {name: each.shape for name, each in ours.items()} == {
        name: each.shape for name, each in reference.items()
    }


@pytest.mark.parametrize("size", SPECS)
def test_image_encoder(official, size, report_parity):
    reference = build_reference(official, SPECS[size])
    image = torch.randn(2, 3, *SPECS[size].image_hw)
    (found,) = _ours(reference, SPECS[size]).encode(image)
    expected = reference.image_encoder(image)
    max_abs = (found - expected).abs().max().item()
    report_parity(f"EfficientSAM {size}: image encoder", REFERENCE, max_abs)
    assert expected.std() > 0.1
    assert max_abs <= 1e-4


@pytest.mark.parametrize("size", SPECS)
def test_mask_decoder(official, size, report_parity):
    spec = SPECS[size].mask_decoder
    reference = build_reference(official, SPECS[size])
    ours = _ours(reference, SPECS[size])
    embedding, sparse = torch.randn(1, spec.width, *spec.grid_hw), torch.randn(6, 3, spec.width)
    positions = ours.prompt_encoder.dense_positions()
    found, _ = ours.mask_decoder(embedding, positions, sparse, slice(0, 4))
    expected = _decoded(reference, embedding, sparse, all_four=True)
    max_abs = (found - expected).abs().max().item()
    report_parity(f"EfficientSAM {size}: mask decoder", REFERENCE, max_abs)
    assert expected.std() > 0.1
    assert max_abs <= 1e-4


@pytest.mark.parametrize("size", SPECS)
def test_encode_and_decode(official, size, report_parity):
    spec = SPECS[size]
    reference = build_reference(official, spec)
    ours = _ours(reference, spec)
    image, sparse = torch.randn(1, 3, *spec.image_hw), torch.randn(6, 1, spec.mask_decoder.width)
    found, _ = ours.decode(ours.encode(image), sparse)
    expected = _decoded(reference, reference.image_encoder(image), sparse, all_four=False)
    max_abs = (found - expected).abs().max().item()
    iou = ((found > 0) & (expected > 0)).sum() / ((found > 0) | (expected > 0)).sum()
    report_parity(f"EfficientSAM {size}: mask", REFERENCE, max_abs, iou.item())
    assert 0.05 < (expected > 0).float().mean() < 0.95
    assert max_abs <= 1e-3
    assert iou >= 0.999
