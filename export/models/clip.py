"""CLIP's vision tower, as language models that see take it: all but the last of its layers.

Sources: CLIP (arXiv 2103.00020) and LLaVA (arXiv 2304.08485), section 4.1. Parameter names are
those of Hugging Face's CLIPVisionModel, the misspelled `pre_layrnorm` among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from .attention import attend

__all__ = ["CLIP_SPECS", "ClipVisionSpec", "ClipVisionTower"]

QUICK_GELU = 1.702
"""Slope of the sigmoid that stands in for the normal distribution in CLIP's GELU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipVisionSpec:
    """Sizes of one vision tower."""

    image_hw: tuple[int, int]
    """Height and width of the image view in pixels."""
    patch: int
    """Side of a square patch in pixels."""
    width: int
    """Channels of a token."""
    heads: int
    """Attention heads; divides the width."""
    layers: int
    """Layers that are stored; the last one's output is not used."""
    mlp_width: int
    """Hidden channels of the layers' MLPs."""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of patches, each a token."""
        return self.image_hw[0] // self.patch, self.image_hw[1] // self.patch


CLIP_SPECS = {
    "vit-l/14-336": ClipVisionSpec(
        image_hw=(336, 336), patch=14, width=1024, heads=16, layers=24, mlp_width=4096
    ),
    "mini": ClipVisionSpec(
        image_hw=(96, 120), patch=12, width=256, heads=4, layers=5, mlp_width=768
    ),
}


class Embeddings(nn.Module):
    """Patches of the image view as tokens with positions, behind a class token."""

    def __init__(self, spec: ClipVisionSpec) -> None:
        """Build the patch projection, the class token and a position for each."""
        super().__init__()
        rows, columns = spec.grid_hw
        self.class_embedding = nn.Parameter(torch.randn(spec.width) * spec.width**-0.5)
        self.patch_embedding = nn.Conv2d(3, spec.width, spec.patch, spec.patch, bias=False)
        self.position_embedding = nn.Embedding(1 + rows * columns, spec.width)
        nn.init.normal_(self.position_embedding.weight, std=spec.width**-0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float (batch, 3, height, width) to float (batch, 1 + patches, width)."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class SelfAttention(nn.Module):
    """Every token looks at every other."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the four projections of `width` channels."""
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (batch, tokens, width) to the same shape."""
        query, key, value = self.q_proj(tokens), self.k_proj(tokens), self.v_proj(tokens)
        return self.out_proj(attend(query, key, value, heads=self.heads))


class MLP(nn.Module):
    """Two linear maps around CLIP's own approximation of GELU."""

    def __init__(self, width: int, mlp_width: int) -> None:
        """Build the two maps."""
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (..., width) to the same shape."""
        hidden = self.fc1(tokens)
        return self.fc2(hidden * torch.sigmoid(QUICK_GELU * hidden))


class EncoderLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, spec: ClipVisionSpec) -> None:
        """Build one layer."""
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(spec.width)
        self.self_attn = SelfAttention(spec.width, spec.heads)
        self.layer_norm2 = nn.LayerNorm(spec.width)
        self.mlp = MLP(spec.width, spec.mlp_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (batch, tokens, width) to the same shape."""
        tokens = tokens + self.self_attn(self.layer_norm1(tokens))
        return tokens + self.mlp(self.layer_norm2(tokens))


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, spec: ClipVisionSpec) -> None:
        """Build `spec.layers` layers."""
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(spec) for _ in range(spec.layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (batch, tokens, width) to the same shape, leaving the last layer out."""
        for layer in islice(self.layers, len(self.layers) - 1):
            tokens = layer(tokens)
        return tokens


class VisionTransformer(nn.Module):
    """Embeddings, layers and the norms around them."""

    def __init__(self, spec: ClipVisionSpec) -> None:
        """Build the parts; `post_layernorm` is stored beside them and never used."""
        super().__init__()
        self.embeddings = Embeddings(spec)
        self.pre_layrnorm = nn.LayerNorm(spec.width)
        self.encoder = Encoder(spec)
        self.post_layernorm = nn.LayerNorm(spec.width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float (batch, 3, height, width) to float (batch, 1 + patches, width)."""
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels)))


class ClipVisionTower(nn.Module):
    """Image view in, a token for each patch out."""

    def __init__(self, spec: ClipVisionSpec) -> None:
        """Build the network of `spec` with random weights."""
        super().__init__()
        self.vision_model = VisionTransformer(spec)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the second last hidden state without the class token.

        Args:
            pixels: float (batch, 3, *image_hw), normalised.

        Returns:
            float (batch, patches, width), row by row.
        """
        return self.vision_model(pixels)[:, 1:]
