"""EfficientSAM: a plain ViT over all patches at once and a mask decoder of its own.

Source: EfficientSAM (arXiv 2312.00863) and its reference implementation, whose parameter names are
kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend
from .efficient_sam_decoder import MaskDecoder, PromptEncoder
from .folding import Foldable
from .sam import SamSpec
from .sam_vit import neck, patch_embedding
from .visual_model import VisualModel

__all__ = [
    "EFFICIENT_SAM_SPECS",
    "EfficientSamImageEncoder",
    "EfficientSamSpec",
    "EfficientSamVisualModel",
]

EPS = 1e-6
"""Epsilon of the blocks' LayerNorms; the mask decoder's is 1e-5."""
SINGLE_MASK = slice(0, 1)
"""EVF-SAM decodes the single mask, never the three ambiguous ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientSamSpec:
    """Sizes of one EfficientSAM."""

    image_hw: tuple[int, int]
    """Height and width of the image view in pixels."""
    patch: int
    """Side of a square patch in pixels."""
    positions_hw: tuple[int, int]
    """Height and width in cells of the stored positions, which are stretched over the grid."""
    width: int
    """Channels of a token."""
    depth: int
    """Blocks."""
    heads: int
    """Attention heads."""
    mlp_width: int
    """Hidden channels of the blocks' MLPs."""
    mask_decoder: SamSpec
    """Sizes behind the neck; its grid has one cell to a patch."""
    mask_choice: str
    """"single", as EVF-SAM has it."""


def _official(width: int, heads: int) -> EfficientSamSpec:
    return EfficientSamSpec(
        image_hw=(1024, 1024), patch=16, positions_hw=(14, 14), width=width, depth=12,
        heads=heads, mlp_width=4 * width,
        mask_decoder=SamSpec(
            width=256, heads=8, mlp_width=2048, grid_hw=(64, 64), frame_hw=(1024, 1024), eps=1e-5
        ),
        mask_choice="single",
    )  # fmt: skip


EFFICIENT_SAM_SPECS = {
    "ti": _official(192, 3),
    "s": _official(384, 6),
    "mini": EfficientSamSpec(
        image_hw=(160, 160), patch=16, positions_hw=(14, 14), width=32, depth=2,
        heads=2, mlp_width=128,
        mask_decoder=SamSpec(
            width=32, heads=4, mlp_width=64, grid_hw=(10, 10), frame_hw=(160, 160), eps=1e-5
        ),
        mask_choice="single",
    ),
}  # fmt: skip


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the projections."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (batch, tokens, width) to the same shape."""
        return self.proj(attend(*self.qkv(tokens).chunk(3, dim=-1), heads=self.heads))


class Block(nn.Module):
    """Pre-norm attention and an MLP."""

    def __init__(self, spec: EfficientSamSpec) -> None:
        """Build one block."""
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=EPS)
        self.attn = Attention(spec.width, spec.heads)
        self.norm2 = nn.LayerNorm(spec.width, eps=EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(spec.width, spec.mlp_width),
                gelu=nn.GELU(),
                fc2=nn.Linear(spec.mlp_width, spec.width),
            )
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (batch, tokens, width) to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class EfficientSamImageEncoder(Foldable):
    """Image view in, image embedding for EfficientSAM's mask decoder out."""

    def __init__(self, spec: EfficientSamSpec) -> None:
        """Build the network of `spec` with random weights."""
        super().__init__()
        self.grid_hw = spec.mask_decoder.grid_hw
        self.positions_hw = spec.positions_hw
        rows, columns = spec.positions_hw
        self.patch_embed = patch_embedding(spec.patch, spec.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, spec.width))
        self.blocks = nn.Sequential(*(Block(spec) for _ in range(spec.depth)))
        self.neck = neck(spec.width, spec.mask_decoder.width)

    def positions(self) -> Tensor:
        """Return the positions of the grid's cells as float (1, width, rows, columns)."""
        return self.constant()

    def worked_out(self) -> Tensor:
        """Work `positions` out.

        The first stored row belongs to a class token that EfficientSAM has no more.
        """
        stored = self.pos_embed[:, 1:].mT.unflatten(-1, self.positions_hw)
        if self.positions_hw == self.grid_hw:
            return stored
        return functional.interpolate(stored, self.grid_hw, mode="bicubic", align_corners=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map float (batch, 3, *image_hw), normalised, to float (batch, width, *grid_hw)."""
        tokens = (self.patch_embed(image) + self.positions()).flatten(2).mT
        return self.neck(self.blocks(tokens).mT.unflatten(-1, self.grid_hw))


class EfficientSamVisualModel(VisualModel):
    """EfficientSAM, prompted by embedded words, under the reference's names."""

    feature_names = ("image_embedding",)
    mask_choices = ("single",)

    def __init__(self, spec: EfficientSamSpec) -> None:
        """Build the networks of `spec` with random weights."""
        super().__init__()
        self.mask_choice = spec.mask_choice
        self.image_encoder = EfficientSamImageEncoder(spec)
        self.prompt_encoder = PromptEncoder(spec.mask_decoder)
        self.mask_decoder = MaskDecoder(spec.mask_decoder)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map float (batch, 3, *image_hw), normalised, to float (batch, width, *grid_hw)."""
        return (self.image_encoder(image),)

    def decode(self, features: tuple[Tensor, ...], sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Decode the single mask of each prompt.

        Args:
            features: What `encode` returned for one frame, or for one frame per prompt.
            sparse: float (prompts, tokens, width), prompt tokens.

        Returns:
            Logits float (prompts, 1, 4 rows, 4 columns) and predicted IoU float (prompts, 1).
        """
        (image_embedding,) = features
        positions = self.prompt_encoder.dense_positions()
        return self.mask_decoder(image_embedding, positions, sparse, SINGLE_MASK)
