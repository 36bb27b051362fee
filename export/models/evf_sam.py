"""EVF-SAM: image and words fused early by BEiT-3, one prompt vector, SAM's mask decoder.

Source: EVF-SAM (arXiv 2406.20076), figure 3, and its reference implementation, whose parameter
names are kept: `visual_model.`, `mm_extractor.beit3.` and `text_hidden_fcs.0.`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from .beit3 import BEIT3_SPECS, BEiT3, BEiT3Spec
from .efficientvit import EFFICIENTVIT_SPECS, EfficientViTSamImageEncoder, EfficientViTSpec
from .projector import projector
from .sam import MaskDecoder, PromptEncoder, SamSpec

__all__ = ["EVF_SAM_SPECS", "SINGLE_MASK", "EvfSam", "EvfSamSpec", "VisualModel"]

SINGLE_MASK = slice(0, 1)
"""EVF-SAM decodes SAM's single mask, never the three ambiguous ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvfSamSpec:
    """Sizes of one EVF-SAM."""

    image_encoder: EfficientViTSpec
    """SAM's side: what sees the frame in detail."""
    multimodal_encoder: BEiT3Spec
    """BEiT-3's side: what reads the words while looking at the frame."""
    mask_decoder: SamSpec
    """Where both meet."""
    is_beit_view_antialiased: bool
    """How BEiT-3's view is scaled down: the reference does not antialias, the miniature does."""


def _official(image_encoder: str, multimodal_encoder: str) -> EvfSamSpec:
    return EvfSamSpec(
        image_encoder=EFFICIENTVIT_SPECS[image_encoder],
        multimodal_encoder=BEIT3_SPECS[multimodal_encoder],
        mask_decoder=SamSpec(
            width=256, heads=8, mlp_width=2048, grid_hw=(64, 64), frame_hw=(1024, 1024), eps=1e-6
        ),
        is_beit_view_antialiased=False,
    )


EVF_SAM_SPECS = {
    "efficientvit-l0-beit3-base": _official("l0", "base"),
    "efficientvit-l0-beit3-large": _official("l0", "large"),
    "efficientvit-l1-beit3-large": _official("l1", "large"),
    "efficientvit-l2-beit3-large": _official("l2", "large"),
    "efficientvit-xl0-beit3-large": _official("xl0", "large"),
    "efficientvit-xl1-beit3-large": _official("xl1", "large"),
    "mini": EvfSamSpec(
        image_encoder=EFFICIENTVIT_SPECS["mini"],
        multimodal_encoder=BEIT3_SPECS["mini"],
        mask_decoder=SamSpec(
            width=128, heads=8, mlp_width=256, grid_hw=(15, 20), frame_hw=(120, 160), eps=1e-6
        ),
        is_beit_view_antialiased=True,
    ),
}


class VisualModel(nn.Module):
    """SAM: image encoder, prompt encoder and mask decoder under the reference's names."""

    def __init__(self, spec: EvfSamSpec) -> None:
        """Build the three parts."""
        super().__init__()
        self.image_encoder = EfficientViTSamImageEncoder(spec.image_encoder)
        self.prompt_encoder = PromptEncoder(spec.mask_decoder)
        self.mask_decoder = MaskDecoder(spec.mask_decoder)

    def decode(self, image_embedding: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Decode SAM's single mask of each prompt.

        Args:
            image_embedding: float (1 or batch, width, rows, columns).
            sparse: float (batch, tokens, width), prompt tokens.

        Returns:
            Logits float (batch, 1, 4 rows, 4 columns) and predicted IoU float (batch, 1).
        """
        return self.mask_decoder(
            image_embedding,
            self.prompt_encoder.dense_positions(),
            sparse,
            self.prompt_encoder.no_mask(),
            SINGLE_MASK,
        )


class EvfSam(nn.Module):
    """The whole system in training; export traces its three stages one by one."""

    def __init__(self, spec: EvfSamSpec) -> None:
        """Build the networks of `spec` with random weights."""
        super().__init__()
        self.spec = spec
        self.visual_model = VisualModel(spec)
        self.mm_extractor = nn.ModuleDict({"beit3": BEiT3(spec.multimodal_encoder)})
        self.text_hidden_fcs = nn.ModuleList(
            [projector(spec.multimodal_encoder.width, spec.mask_decoder.width)]
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

    def forward(self, image_embedding: Tensor, image: Tensor, token_ids: Tensor) -> Tensor:
        """Segment phrases on encoded frames.

        Args:
            image_embedding: float (1 or batch, width, rows, columns).
            image: float (1 or batch, 3, height, width), BEiT-3's view.
            token_ids: int64 (batch, tokens), padded on the right.

        Returns:
            Mask logits float (batch, 1, 4 rows, 4 columns).
        """
        return self.visual_model.decode(image_embedding, self.prompt(image, token_ids))[0]
