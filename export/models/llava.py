"""What LLaVA sees: a vision tower's features as tokens of its language model.

Sources: LLaVA-1.5 (arXiv 2310.03744), section 3.2, and LLaVA-NeXT, whose parameter names are kept
without their `model.` prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from .clip import ClipVisionSpec, ClipVisionTower
from .projector import language_projector

__all__ = ["LlavaVision", "LlavaVisionSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaVisionSpec:
    """Sizes of what sees."""

    vision_tower: ClipVisionSpec
    """What sees a tile."""
    language_width: int
    """Channels of the language model's tokens."""
    has_newline: bool
    """True where rows of tiles end in a learned token."""


class LlavaVision(nn.Module):
    """Tiles in, tokens of the language model out."""

    image_newline: nn.Parameter | None
    """float (language_width,): the token that ends a row, where rows end."""

    def __init__(self, spec: LlavaVisionSpec) -> None:
        """Build the networks of `spec` with random weights."""
        super().__init__()
        tower, width = spec.vision_tower, spec.language_width
        self.vision_tower = nn.ModuleDict({"vision_tower": ClipVisionTower(tower)})
        self.mm_projector = language_projector(tower.width, width)
        newline = nn.Parameter(torch.randn(width) * width**-0.5) if spec.has_newline else None
        self.register_parameter("image_newline", newline)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map tiles to tokens.

        Args:
            pixels: float (tiles, 3, *image_hw), normalised.

        Returns:
            float (tiles, tokens, language_width): a tile's patches row by row and then, if there is
            one, the newline, so that `runtime.tiling.token_order` finds it.
        """
        tower = cast(ClipVisionTower, self.vision_tower["vision_tower"])
        tokens = self.mm_projector(tower.features(pixels))
        if self.image_newline is None:
            return tokens
        return torch.cat([tokens, self.image_newline.expand(tokens.shape[0], 1, -1)], dim=1)
