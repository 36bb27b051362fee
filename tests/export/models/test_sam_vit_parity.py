import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.models.sam import SamSpec
from saymask.export.models.sam_visual import SamVisualModel, SamVisualSpec
from saymask.export.models.sam_vit import SAM_VIT_SPECS, SamVitSpec

pytestmark = pytest.mark.parity

REFERENCE = "segment-anything 1.0"
SPECS = {
    "mini": SAM_VIT_SPECS["mini"],
    "odd": SamVitSpec(
        image_hw=(132, 132), patch=12, width=24, depth=4, heads=3,
        mlp_width=60, window=4, global_blocks=(0, 2), out_width=16,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def official() -> Iterator[ModuleType]:
    """The reference package without its face, whose predictor asks for torchvision."""
    spec = importlib.util.find_spec("segment_anything")
    if spec is None:
        pytest.skip("segment-anything is not installed; pip install --no-deps segment-anything")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "segment_anything", importlib.util.module_from_spec(spec))
        yield importlib.import_module("segment_anything.build_sam")
    for name in [name for name in sys.modules if name.startswith("segment_anything.")]:
        del sys.modules[name]


def build_reference(official: ModuleType, spec: SamVitSpec) -> nn.Module:
    """Build a SAM of the reference's own parts with a value of its own in every parameter."""
    torch.manual_seed(0)
    (side, _), (cells, _), width = spec.image_hw, spec.grid_hw, spec.out_width
    sam = official.Sam(
        image_encoder=official.ImageEncoderViT(
            img_size=side, patch_size=spec.patch, embed_dim=spec.width, depth=spec.depth,
            num_heads=spec.heads, mlp_ratio=spec.mlp_width / spec.width, out_chans=width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
            window_size=spec.window, global_attn_indexes=spec.global_blocks,
        ),
        prompt_encoder=official.PromptEncoder(
            embed_dim=width, image_embedding_size=(cells, cells),
            input_image_size=(side, side), mask_in_chans=16,
        ),
        mask_decoder=official.MaskDecoder(
            transformer_dim=width,
            transformer=official.TwoWayTransformer(
                depth=2, embedding_dim=width, mlp_dim=48, num_heads=4
            ),
            iou_head_hidden_dim=width,
        ),
    )  # fmt: skip
    for each in sam.parameters():
        each.data += 0.3 * torch.randn_like(each)
    return sam.eval().requires_grad_(False)


def _ours(reference: nn.Module, spec: SamVitSpec, mask) -> SamVisualModel:
    decoder = SamSpec(
        width=spec.out_width, heads=4, mlp_width=48, grid_hw=spec.grid_hw,
        frame_hw=spec.image_hw, eps=1e-5,
    )  # fmt: skip
    model = SamVisualModel(
        SamVisualSpec(image_encoder=spec, mask_decoder=decoder, mask_choice=mask)
    )
    model.load_state_dict(reference.state_dict())
    return model.eval().requires_grad_(False)


def _decoded(reference: nn.Module, embedding: Tensor, sparse: Tensor, mask) -> Tensor:
    dense = reference.prompt_encoder.no_mask_embed.weight[:, :, None, None]
    logits, iou = reference.mask_decoder(
        image_embeddings=embedding,
        image_pe=reference.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense.expand(len(sparse), -1, *embedding.shape[-2:]),
        multimask_output=mask == "best",
    )
    best = iou.argmax(1)
    return torch.stack([every[index] for every, index in zip(logits, best, strict=True)])[:, None]


@pytest.mark.parametrize("size", ["b", "l", "h"])
def test_official_layouts(official, size):
    with torch.device("meta"):
        reference = official.sam_model_registry[f"vit_{size}"]().state_dict()
        spec = EVF_SAM_SPECS[f"sam-{size}-beit3-large"].visual_model
        ours = SamVisualModel(spec).state_dict()
    assert {name: each.shape for name, each in ours.items()} == {
        name: each.shape for name, each in reference.items()
    }


@pytest.mark.parametrize("size", SPECS)
def test_image_encoder(official, size, report_parity):
    reference = build_reference(official, SPECS[size])
    ours = _ours(reference, SPECS[size], "single")
    image = torch.randn(2, 3, *SPECS[size].image_hw)
    (found,) = ours.encode(image)
    expected = reference.image_encoder(image)
    max_abs = (found - expected).abs().max().item()
    report_parity(f"SAM ViT {size}: image encoder", REFERENCE, max_abs)
    assert expected.std() > 0.1
    assert max_abs <= 1e-4


@pytest.mark.parametrize("mask", ["single", "best"])
@pytest.mark.parametrize("size", SPECS)
def test_encode_and_decode(official, size, mask, report_parity):
    spec = SPECS[size]
    reference = build_reference(official, spec)
    ours = _ours(reference, spec, mask)
    image, sparse = torch.randn(1, 3, *spec.image_hw), torch.randn(6, 1, spec.out_width)
    found, _ = ours.decode(ours.encode(image), sparse)
    expected = _decoded(reference, reference.image_encoder(image), sparse, mask)
    max_abs = (found - expected).abs().max().item()
    iou = ((found > 0) & (expected > 0)).sum() / ((found > 0) | (expected > 0)).sum()
    report_parity(f"SAM ViT {size}: {mask} mask", REFERENCE, max_abs, iou.item())
    assert expected.std() > 0.1
    assert 0.05 < (expected > 0).float().mean() < 0.95
    assert max_abs <= 1e-3
    assert iou >= 0.999
