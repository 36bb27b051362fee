"""SAM's own image encoder: a plain ViT with windowed attention and a few global looks (ViTDet).

Source: Segment Anything (arXiv 2304.02643), appendix A, ViTDet (arXiv 2203.16527) and SAM's
reference implementation, whose parameter names are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend
from .sam import LayerNorm2d

__all__ = ["SAM_VIT_SPECS", "SamVitImageEncoder", "SamVitSpec", "neck", "patch_embedding"]

EPS = 1e-6
"""Epsilon of the blocks' LayerNorms; the mask decoder's is 1e-5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamVitSpec:
    """Sizes of one of SAM's image encoders."""

    image_hw: tuple[int, int]
    """Height and width of the image view in pixels."""
    patch: int
    """Side of a square patch in pixels."""
    width: int
    """Channels of a token."""
    depth: int
    """Blocks."""
    heads: int
    """Attention heads."""
    mlp_width: int
    """Hidden channels of the blocks' MLPs."""
    window: int
    """Side of an attention window in tokens."""
    global_blocks: tuple[int, ...]
    """Indices of the blocks that attend over the whole grid."""
    out_width: int
    """Channels of the image embedding."""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Height and width of the image embedding in cells, one to a patch."""
        return self.image_hw[0] // self.patch, self.image_hw[1] // self.patch


def _official(width: int, depth: int, heads: int, global_blocks: tuple[int, ...]) -> SamVitSpec:
    return SamVitSpec(
        image_hw=(1024, 1024), patch=16, width=width, depth=depth, heads=heads,
        mlp_width=4 * width, window=14, global_blocks=global_blocks, out_width=256,
    )  # fmt: skip


SAM_VIT_SPECS = {
    "b": _official(768, 12, 12, (2, 5, 8, 11)),
    "l": _official(1024, 24, 16, (5, 11, 17, 23)),
    "h": _official(1280, 32, 16, (7, 15, 23, 31)),
    "mini": SamVitSpec(
        image_hw=(160, 160), patch=16, width=32, depth=3, heads=2,
        mlp_width=128, window=7, global_blocks=(1,), out_width=32,
    ),
}  # fmt: skip


def patch_embedding(patch: int, width: int) -> nn.Sequential:
    """Build the map of float (batch, 3, height, width in pixels) to (batch, width, grid)."""
    return nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, patch, patch)))


def neck(width: int, out_width: int) -> nn.Sequential:
    """Build the two convolutions from float (batch, width, grid) to (batch, out_width, grid)."""
    return nn.Sequential(
        nn.Conv2d(width, out_width, kernel_size=1, bias=False),
        LayerNorm2d(out_width),
        nn.Conv2d(out_width, out_width, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_width),
    )


class Attention(nn.Module):
    """Self-attention over a grid, biased by how far down and along the key lies."""

    def __init__(self, width: int, heads: int, grid_hw: tuple[int, int]) -> None:
        """Build the projections and an embedding of each offset within `grid_hw`."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        rows, columns = grid_hw
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, width // heads))

    def forward(self, grid: Tensor) -> Tensor:
        """Map float (batch, rows, columns, width) to the same shape."""
        query, key, value = self.qkv(grid).chunk(3, dim=-1)
        mixed = attend(
            query.flatten(1, 2),
            key.flatten(1, 2),
            value.flatten(1, 2),
            heads=self.heads,
            bias=self.bias(query),
        )
        return self.proj(mixed).view_as(grid)

    def bias(self, query: Tensor) -> Tensor:
        """Score each key's place for each query, which is not scaled here as it is for contents.

        Args:
            query: float (batch, rows, columns, width).

        Returns:
            float (batch, heads, rows * columns of the query, rows * columns of the key).
        """
        query = query.unflatten(-1, (self.heads, -1)).movedim(-2, 1)
        down = query @ _between(self.rel_pos_h).mT
        along = (query.transpose(2, 3) @ _between(self.rel_pos_w).mT).transpose(2, 3)
        return (down.unsqueeze(-1) + along.unsqueeze(-2)).flatten(-2).flatten(2, 3)


def _between(offsets: Tensor) -> Tensor:
    """Lay (offsets 1 - n to n - 1, channels) out as (n queries, n keys, channels)."""
    places = torch.arange((len(offsets) + 1) // 2, device=offsets.device)
    return offsets[places[:, None] - places + len(places) - 1]


class Block(nn.Module):
    """Pre-norm attention, in windows or over the whole grid, and an MLP."""

    def __init__(self, spec: SamVitSpec, *, is_global: bool) -> None:
        """Build one block."""
        super().__init__()
        self.window = None if is_global else spec.window
        extent_hw = spec.grid_hw if is_global else (spec.window, spec.window)
        self.norm1 = nn.LayerNorm(spec.width, eps=EPS)
        self.attn = Attention(spec.width, spec.heads, extent_hw)
        self.norm2 = nn.LayerNorm(spec.width, eps=EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                lin1=nn.Linear(spec.width, spec.mlp_width),
                gelu=nn.GELU(),
                lin2=nn.Linear(spec.mlp_width, spec.width),
            )
        )

    def forward(self, grid: Tensor) -> Tensor:
        """Map float (batch, rows, columns, width) to the same shape."""
        grid = grid + self._attend(self.norm1(grid))
        return grid + self.mlp(self.norm2(grid))

    def _attend(self, grid: Tensor) -> Tensor:
        if self.window is None:
            return self.attn(grid)
        rows, columns = grid.shape[1:3]
        return _join(self.attn(_split(grid, self.window)), rows, columns)


def _split(grid: Tensor, window: int) -> Tensor:
    """Cut (batch, rows, columns, width) into (batch * windows, window, window, width).

    The last windows are filled with zeros, which are keys like any other: the reference hides
    none of them.
    """
    missing = 0, 0, 0, -grid.shape[2] % window, 0, -grid.shape[1] % window
    cut = functional.pad(grid, missing).unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return cut.transpose(2, 3).flatten(0, 2)


def _join(windows: Tensor, rows: int, columns: int) -> Tensor:
    """Lay windows out as (batch, rows, columns, width) again and drop what filled them."""
    window = windows.shape[1]
    cut = windows.unflatten(0, (-1, -(-rows // window), -(-columns // window)))
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :rows, :columns]


class SamVitImageEncoder(nn.Module):
    """Image view in, image embedding for SAM's mask decoder out."""

    def __init__(self, spec: SamVitSpec) -> None:
        """Build the network of `spec` with random weights."""
        super().__init__()
        self.patch_embed = patch_embedding(spec.patch, spec.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, *spec.grid_hw, spec.width))
        self.blocks = nn.Sequential(
            *(Block(spec, is_global=index in spec.global_blocks) for index in range(spec.depth))
        )
        self.neck = neck(spec.width, spec.out_width)

    def forward(self, image: Tensor) -> Tensor:
        """Map float (batch, 3, *image_hw), normalised, to float (batch, out_width, *grid_hw)."""
        grid = self.patch_embed(image).permute(0, 2, 3, 1) + self.pos_embed
        return self.neck(self.blocks(grid).permute(0, 3, 1, 2))
