"""EVF-SAM: image and words fused early by BEiT-3, one prompt vector, SAM's mask decoder.

Source: EVF-SAM (arXiv 2406.20076), figure 3, and its reference implementation, whose parameter
names are kept: `visual_model.`, `mm_extractor.beit3.` and `text_hidden_fcs.0.`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from .beit3 import BEIT3_SPECS, BEiT3, BEiT3Spec
from .efficient_sam import EFFICIENT_SAM_SPECS, EfficientSamSpec, EfficientSamVisualModel
from .efficientvit import EFFICIENTVIT_SPECS, EfficientViTSpec
from .projector import projector
from .sam import SamSpec
from .sam2 import SAM2_SPECS, Sam2Spec, Sam2VisualModel
from .sam_visual import SamVisualModel, SamVisualSpec
from .sam_vit import SAM_VIT_SPECS, SamVitSpec
from .visual_model import VisualModel, VisualSpec

__all__ = ["EVF_SAM_SPECS", "EvfSam", "EvfSamSpec"]

VISUAL_MODELS: dict[type, type[VisualModel]] = {
    EfficientSamSpec: EfficientSamVisualModel,
    Sam2Spec: Sam2VisualModel,
    SamVisualSpec: SamVisualModel,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvfSamSpec:
    """Sizes of one EVF-SAM."""

    visual_model: VisualSpec
    """SAM's side: what sees the frame in detail and draws the mask; of a type in VISUAL_MODELS."""
    multimodal_encoder: BEiT3Spec
    """BEiT-3's side: what reads the words while looking at the frame."""


def _sam(image_encoder: SamVitSpec | EfficientViTSpec, *, eps: float) -> SamVisualSpec:
    decoder = SamSpec(
        width=256, heads=8, mlp_width=2048, grid_hw=(64, 64), frame_hw=(1024, 1024), eps=eps
    )
    return SamVisualSpec(image_encoder=image_encoder, mask_decoder=decoder, mask_choice="single")


_OFFICIAL: dict[str, VisualSpec] = {
    **{f"sam-{size}": _sam(SAM_VIT_SPECS[size], eps=1e-5) for size in "blh"},
    **{
        f"efficientvit-{size}": _sam(EFFICIENTVIT_SPECS[size], eps=1e-6)
        for size in ("l0", "l1", "l2", "xl0", "xl1")
    },
    **{f"efficientsam-{size}": EFFICIENT_SAM_SPECS[size] for size in ("ti", "s")},
    "sam2-t": SAM2_SPECS["tiny"],
    "sam2-s": SAM2_SPECS["small"],
    "sam2-b+": SAM2_SPECS["base-plus"],
    "sam2-l": SAM2_SPECS["large"],
}

EVF_SAM_SPECS = {
    **{
        f"{name}-beit3-{size}": EvfSamSpec(visual_model=visual, multimodal_encoder=beit3)
        for name, visual in _OFFICIAL.items()
        for size, beit3 in BEIT3_SPECS.items()
        if size != "mini"
    },
    "mini": EvfSamSpec(
        visual_model=SamVisualSpec(
            image_encoder=EFFICIENTVIT_SPECS["mini"],
            mask_decoder=SamSpec(
                width=128, heads=8, mlp_width=256, grid_hw=(15, 20), frame_hw=(120, 160), eps=1e-6
            ),
            mask_choice="single",
        ),
        multimodal_encoder=BEIT3_SPECS["mini"],
    ),
}


class EvfSam(nn.Module):
    """The whole system in training; export traces its three stages one by one."""

    def __init__(self, spec: EvfSamSpec) -> None:
        """Build the networks of `spec` with random weights."""
        super().__init__()
        self.spec = spec
        self.visual_model = VISUAL_MODELS[type(spec.visual_model)](spec.visual_model)
        self.mm_extractor = nn.ModuleDict({"beit3": BEiT3(spec.multimodal_encoder)})
        self.text_hidden_fcs = nn.ModuleList(
            [projector(spec.multimodal_encoder.width, spec.visual_model.mask_decoder.width)]
        )

    def prompt(self, image: Tensor, token_ids: Tensor) -> Tensor:
        """Fuse image view and phrase into one prompt token.

        Args:
            image: float (1 or batch, 3, height, width), BEiT-3's view.
            token_ids: int64 (batch, tokens), padded on the right.

        Returns:
            float (batch, 1, width).
        """
        beit3 = cast(BEiT3, self.mm_extractor["beit3"])
        return self.text_hidden_fcs[0](beit3.class_token(image, token_ids))

    def forward(self, features: tuple[Tensor, ...], image: Tensor, token_ids: Tensor) -> Tensor:
        """Segment phrases on encoded frames.

        Args:
            features: What `visual_model.encode` returned for one frame, or for one per phrase.
            image: float (1 or batch, 3, height, width), BEiT-3's view.
            token_ids: int64 (batch, tokens), padded on the right.

        Returns:
            Mask logits float (batch, 1, h, w).
        """
        return self.visual_model.decode(features, self.prompt(image, token_ids))[0]
