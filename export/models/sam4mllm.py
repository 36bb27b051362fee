"""SAM4MLLM but for its language model: what that sees, and the SAM that it prompts.

Source: SAM4MLLM (arXiv 2409.10542), figure 3, and its reference implementation: LLaVA-NeXT, whose
parameter names are kept, and EfficientViT-SAM, whose names come behind `visual_model.`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import nn

from .evf_sam import EVF_SAM_SPECS
from .llava import LlavaVision, LlavaVisionSpec
from .llava_llama import LLAVA_SPECS
from .sam_visual import SamVisualModel, SamVisualSpec

__all__ = ["SAM4MLLM_SPECS", "Sam4mllm", "Sam4mllmSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sam4mllmSpec:
    """Sizes of one SAM4MLLM."""

    visual_model: SamVisualSpec
    """SAM's side: what sees the frame in detail and draws the masks."""
    vision: LlavaVisionSpec
    """The language model's eyes."""
    language: str
    """Key of `LLAVA_SPECS`, where the language model is."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of tiles that these cut a frame into, the preferred one first."""
    rounds_to_uint8: bool
    """True where frames were resized as Pillow does, see `runtime.spec.ViewSpec`."""


def _sam(variant: str, mask_choice: str) -> SamVisualSpec:
    """Return the SAM of one of EVF-SAM's variants."""
    return replace(
        cast(SamVisualSpec, EVF_SAM_SPECS[variant].visual_model), mask_choice=mask_choice
    )


SAM4MLLM_SPECS = {
    "efficientvit-xl1-llava-next-8b": Sam4mllmSpec(
        visual_model=_sam("efficientvit-xl1-beit3-large", "best"),
        vision=LLAVA_SPECS["llama3-llava-next-8b"].vision,
        language="llama3-llava-next-8b",
        grids=((2, 1), (1, 2), (2, 2), (1, 3), (3, 1)),
        rounds_to_uint8=True,
    ),
    "mini": Sam4mllmSpec(
        visual_model=_sam("mini", "single"),
        vision=LLAVA_SPECS["mini"].vision,
        language="mini",
        grids=(),
        rounds_to_uint8=False,
    ),
}


class Sam4mllm(nn.Module):
    """All that becomes a graph; the language model becomes a file of its own."""

    def __init__(self, spec: Sam4mllmSpec) -> None:
        """Build the networks of `spec` with random weights."""
        super().__init__()
        self.spec = spec
        self.model = LlavaVision(spec.vision)
        self.visual_model = SamVisualModel(spec.visual_model)
