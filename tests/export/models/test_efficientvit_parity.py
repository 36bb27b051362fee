import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from saymask.export.models.efficientvit import EfficientViTSpec
from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.models.sam import SamSpec
from saymask.export.models.sam_visual import SamVisualModel, SamVisualSpec

pytestmark = pytest.mark.parity

REFERENCE = "mit-han-lab/efficientvit"
SPECS = {
    "mini": cast(SamVisualSpec, EVF_SAM_SPECS["mini"].visual_model),
    "odd": SamVisualSpec(
        image_encoder=EfficientViTSpec(
            image_hw=(100, 136), grid_hw=(9, 11), widths=(8, 12, 20, 24, 32, 48),
            depths=(1, 2, 1, 0, 2, 1), blocks=("res", "fmb", "mb", "mb", "att3", "att5"),
            expansions=(1, 2, 2, 3, 2, 1),
            keeps_last_norm_only=(True, True, False, True, True, False),
            head_width=16, neck_width=28, neck_depth=3, neck_expansion=2, out_width=24,
        ),
        mask_decoder=SamSpec(
            width=24, heads=3, mlp_width=50, grid_hw=(9, 11), frame_hw=(100, 136), eps=1e-6
        ),
        mask_choice="single",
    ),
}  # fmt: skip
"""Block "res" is kept to stage 0, where official sizes have it: later the reference changes it."""
UNUSED = (
    "torchvision",
    "torchvision.ops.boxes",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "efficientvit.apps.trainer.run_config",
    "efficientvit.models.efficientvit.dc_ae",
    "efficientvit.models.nn.triton_rms_norm",
)


@pytest.fixture(scope="module")
def official(references) -> Iterator[ModuleType]:
    """The reference's module of SAM, taken from its clone.

    Its decoder is the real segment-anything's. A mock stands in for each of `UNUSED`, which is
    imported along with the networks but is no part of them: torchvision (resizes pictures), the
    trainer's settings, an autoencoder, and a norm for CUDA that no SAM has.
    """
    if not Path(references, "efficientvit").is_dir():
        pytest.skip(f"{references} has no clone of {REFERENCE}")
    if importlib.util.find_spec("segment_anything") is None:
        pytest.skip("segment-anything is not installed; pip install --no-deps segment-anything")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(references, "efficientvit"))
        for name in UNUSED:
            patch.setitem(sys.modules, name, Mock())
        yield importlib.import_module("efficientvit.models.efficientvit.sam")
    packages = {"efficientvit", "segment_anything"}
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]


def _encoder(official: ModuleType, spec: EfficientViTSpec) -> nn.Module:
    """Build the reference's image encoder; its grid and its last norm have no argument."""
    backbone = official.EfficientViTLargeBackbone(
        width_list=spec.widths, depth_list=spec.depths,
        block_list=[kind.replace("att", "att@") for kind in spec.blocks],
        expand_list=spec.expansions, fewer_norm_list=spec.keeps_last_norm_only,
        qkv_dim=spec.head_width,
    )  # fmt: skip
    last = len(spec.widths) - 1
    neck = official.SamNeck(
        fid_list=[f"stage{last - index}" for index in range(3)],
        in_channel_list=spec.widths[:-4:-1], head_width=spec.neck_width,
        head_depth=spec.neck_depth, expand_ratio=spec.neck_expansion, middle_op="fmb",
        out_dim=spec.out_width,
    )  # fmt: skip
    for each in neck.modules():
        if isinstance(each, official.UpSampleLayer):
            each.size = spec.grid_hw
    encoder = official.EfficientViTSamImageEncoder(backbone, neck)
    encoder.norm = official.build_norm("ln2d", spec.out_width)
    return encoder


def _reference(official: ModuleType, spec: SamVisualSpec) -> nn.Module:
    """Build a SAM of the reference's own parts with a value in every parameter and statistic."""
    torch.manual_seed(0)
    decoder = spec.mask_decoder
    sam = official.EfficientViTSam(
        image_encoder=_encoder(official, cast(EfficientViTSpec, spec.image_encoder)),
        prompt_encoder=official.PromptEncoder(
            embed_dim=decoder.width, image_embedding_size=decoder.grid_hw,
            input_image_size=decoder.frame_hw, mask_in_chans=16,
        ),
        mask_decoder=official.MaskDecoder(
            transformer_dim=decoder.width,
            transformer=official.TwoWayTransformer(
                depth=2, embedding_dim=decoder.width, mlp_dim=decoder.mlp_width,
                num_heads=decoder.heads,
            ),
            iou_head_hidden_dim=decoder.width,
        ),
    )  # fmt: skip
    importlib.import_module("efficientvit.models.nn.norm").set_norm_eps(sam, decoder.eps)
    for each in sam.parameters():
        each.data += 0.15 * torch.randn_like(each)
    for each in sam.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_(0, 0.3)
            each.running_var.uniform_(0.3, 2)
    return sam.eval().requires_grad_(False)


def _ours(reference: nn.Module, spec: SamVisualSpec) -> SamVisualModel:
    model = SamVisualModel(spec)
    model.load_state_dict(reference.state_dict())
    return model.eval().requires_grad_(False)


def _decoded(reference: nn.Module, embedding: Tensor, sparse: Tensor, mask: str) -> Tensor:
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


@pytest.mark.parametrize("size", ["l0", "l1", "l2", "xl0", "xl1"])
@pytest.mark.usefixtures("official")
def test_official_layouts(size):
    zoo = importlib.import_module("efficientvit.sam_model_zoo")
    with torch.device("meta"):
        reference = zoo.create_efficientvit_sam_model(f"efficientvit-sam-{size}", pretrained=False)
        ours = SamVisualModel(EVF_SAM_SPECS[f"efficientvit-{size}-beit3-large"].visual_model)
    assert _shapes(ours) == _shapes(reference)
    assert _epsilons(ours) == _epsilons(reference)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: each.shape for name, each in model.state_dict().items()}


def _epsilons(model: nn.Module) -> dict[str, float]:
    """Epsilon of every norm by its name, without the one in the attention of the reference."""
    norms = ((name, each) for name, each in model.named_modules() if hasattr(each, "weight"))
    return {name: each.eps for name, each in norms if hasattr(each, "eps")}


@pytest.mark.parametrize("size", SPECS)
def test_image_encoder(official, size, report_parity):
    spec = SPECS[size]
    reference = _reference(official, spec)
    image = torch.randn(2, 3, *spec.image_hw)
    (found,) = _ours(reference, spec).encode(image)
    expected = reference.image_encoder(image)
    max_abs = (found - expected).abs().max().item()
    report_parity(f"EfficientViT-SAM {size}: image encoder", REFERENCE, max_abs)
    assert expected.std() > 0.1
    assert max_abs <= 1e-4


@pytest.mark.parametrize("mask", ["single", "best"])
@pytest.mark.parametrize("size", SPECS)
def test_encode_and_decode(official, size, mask, report_parity):
    spec = replace(SPECS[size], mask_choice=mask)
    reference = _reference(official, spec)
    ours = _ours(reference, spec)
    image, sparse = torch.randn(1, 3, *spec.image_hw), torch.randn(6, 1, spec.mask_decoder.width)
    found, _ = ours.decode(ours.encode(image), sparse)
    expected = _decoded(reference, reference.image_encoder(image), sparse, mask)
    max_abs = (found - expected).abs().max().item()
    iou = ((found > 0) & (expected > 0)).sum() / ((found > 0) | (expected > 0)).sum()
    report_parity(f"EfficientViT-SAM {size}: {mask} mask", REFERENCE, max_abs, iou.item())
    assert expected.std() > 0.1
    assert 0.05 < (expected > 0).float().mean() < 0.95
    assert max_abs <= 1e-3
    assert iou >= 0.999
