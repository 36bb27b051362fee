"""SAM-2's memory: how a mask becomes a memory, and how a frame looks at its memories.

Source: SAM 2 (arXiv 2408.00714), section 4, and its reference implementation, whose parameter names
are kept as EVF-SAM's copy spells them; `UPSTREAM_NAMES` has the differences.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend
from .sam import LayerNorm2d

__all__ = ["UPSTREAM_NAMES", "MemoryAttention", "MemoryEncoder", "MemorySpec", "sine_positions"]

FUSER_DEPTH = 2
"""ConvNeXt blocks that fuse a frame with its mask."""
MASK_CHANNELS = (1, 4, 16, 64, 256)
"""Channels of a mask on its way down to the grid; each step halves its sides."""
TEMPERATURE = 10_000.0
"""Ratio of the longest wave of positions to the shortest, nearly."""

UPSTREAM_NAMES = {
    f"memory_encoder.fuser.layers.{index}.gamma": f"memory_encoder.fuser.layers.{index}.weight"
    for index in range(FUSER_DEPTH)
}
"""Parameter names of SAM-2's own checkpoints and of our modules, where they differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySpec:
    """Sizes of one memory."""

    width: int
    """Channels of a memory; it divides the image embedding's."""
    layers: int
    """Layers of memory attention."""
    mlp_width: int
    """Hidden channels of its feed-forward maps."""
    slots: int
    """Memories of a frame: the prompted frame's and those of the frames just before."""
    pointers: int
    """Object pointers of a frame: the prompted frame's and those of the frames just before."""


def sine_positions(grid_hw: tuple[int, int], channels: int) -> Tensor:
    """Return waves of falling frequency along both axes as float (1, channels, rows, columns).

    The first half of the channels tells the row, the second the column; sine and cosine alternate.
    """
    rows, columns = (_waves(extent, channels // 2) for extent in grid_hw)
    height, width = grid_hw
    rows = rows.unsqueeze(1).expand(-1, width, -1)
    columns = columns.unsqueeze(0).expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).permute(2, 0, 1).unsqueeze(0)


def _waves(extent: int, channels: int) -> Tensor:
    places = torch.arange(1, extent + 1, dtype=torch.float32) / (extent + 1e-6) * (2 * math.pi)
    exponents = torch.arange(0, channels, 2, dtype=torch.float32) / channels
    angles = places.unsqueeze(-1) / TEMPERATURE**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def axial_rotation(grid_hw: tuple[int, int], width: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of each cell's rotations, float (cells, width // 2) each.

    The first half of the channel pairs turns with the column, the second with the row.
    """
    y, x = torch.meshgrid(
        *(torch.arange(extent, dtype=torch.float32) for extent in grid_hw), indexing="ij"
    )
    frequencies = TEMPERATURE ** -(torch.arange(0, width, 4, dtype=torch.float32) / width)
    angles = torch.cat([x.reshape(-1, 1) * frequencies, y.reshape(-1, 1) * frequencies], dim=-1)
    return angles.cos(), angles.sin()


def rotate(tokens: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of neighbouring channels of float (..., cells, width) by its cell's angle."""
    cosine, sine = (each.to(tokens) for each in rotation)
    first, second = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    turned = first * cosine - second * sine, first * sine + second * cosine
    return torch.stack(turned, dim=-1).flatten(-2)


class RotaryAttention(nn.Module):
    """Attention of one head whose queries and keys are rotated by their places on the grid."""

    def __init__(self, width: int, key_width: int) -> None:
        """Build projections of queries (`width`) and of keys and values (`key_width`)."""
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(key_width, width)
        self.v_proj = nn.Linear(key_width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rotation: tuple[Tensor, Tensor],
        *,
        placeless: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend over grids of keys and, unrotated, over tokens that have no place.

        Args:
            query: float (1 or batch, cells, width).
            key: float (batch, grids, cells, key_width).
            value: float (batch, grids, cells, key_width).
            rotation: Of the grid, `axial_rotation`.
            placeless: float (batch, tokens, key_width), keys and values at once.
            bias: float, broadcastable to (batch, 1, cells, keys); added before the softmax.

        Returns:
            float (batch, cells, width).
        """
        keys = rotate(self.k_proj(key), rotation).flatten(1, 2)
        values = self.v_proj(value).flatten(1, 2)
        if placeless is not None:
            keys = torch.cat([keys, self.k_proj(placeless)], dim=1)
            values = torch.cat([values, self.v_proj(placeless)], dim=1)
        query = rotate(self.q_proj(query), rotation)
        return self.out_proj(attend(query, keys, values, heads=1, bias=bias))


class MemoryAttentionLayer(nn.Module):
    """A frame looks at itself, then at its memories."""

    def __init__(self, width: int, spec: MemorySpec) -> None:
        """Build both attentions and the feed-forward maps."""
        super().__init__()
        self.self_attn = RotaryAttention(width, width)
        self.cross_attn_image = RotaryAttention(width, spec.width)
        self.linear1 = nn.Linear(width, spec.mlp_width)
        self.linear2 = nn.Linear(spec.mlp_width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(
        self,
        cells: Tensor,
        memories: Tensor,
        positions: Tensor,
        pointers: Tensor,
        rotation: tuple[Tensor, Tensor],
        bias: Tensor,
    ) -> Tensor:
        """Update cells float (1 or objects, cells, width); the rest as `MemoryAttention` has it."""
        normed = self.norm1(cells)
        itself = normed.unsqueeze(1)
        cells = cells + self.self_attn(normed, itself, itself, rotation)
        cells = cells + self.cross_attn_image(
            self.norm2(cells),
            memories + positions,
            memories,
            rotation,
            placeless=pointers,
            bias=bias,
        )
        return cells + self.linear2(functional.relu(self.linear1(self.norm3(cells))))


class MemoryAttention(nn.Module):
    """The layers in which a frame looks at its memories."""

    def __init__(self, width: int, spec: MemorySpec) -> None:
        """Build the layers for image embeddings of `width` channels."""
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(width, spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, image: Tensor, memories: Tensor, positions: Tensor, pointers: Tensor, bias: Tensor
    ) -> Tensor:
        """Condition a frame on memories.

        Args:
            image: float (1 or objects, width, rows, columns), shared or one per object.
            memories: float (objects, slots, cells, memory width).
            positions: float, broadcastable to `memories`: where and when, for the keys only.
            pointers: float (objects, tokens, memory width).
            bias: float (objects, 1, 1, slots * cells + tokens): 0 where a key is attended to, -inf
                where it is not.

        Returns:
            float (objects, width, rows, columns).
        """
        grid_hw = (image.shape[2], image.shape[3])
        image = image + 0.1 * sine_positions(grid_hw, image.shape[1]).to(image)
        cells = image.flatten(2).transpose(1, 2)
        rotation = axial_rotation(grid_hw, image.shape[1])
        for layer in self.layers:
            cells = layer(cells, memories, positions, pointers, rotation, bias)
        return self.norm(cells).transpose(1, 2).unflatten(-1, grid_hw)


class MaskDownSampler(nn.Module):
    """A mask of the frame's size on the grid of its embedding."""

    def __init__(self, width: int) -> None:
        """Build four convolutions that halve the sides and one onto `width` channels."""
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip(MASK_CHANNELS, MASK_CHANNELS[1:], strict=False):
            halve = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1)
            layers += [halve, LayerNorm2d(outputs), nn.GELU()]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(MASK_CHANNELS[-1], width, kernel_size=1))

    def forward(self, mask: Tensor) -> Tensor:
        """Map float (batch, 1, 16 rows, 16 columns) to (batch, width, rows, columns)."""
        return self.encoder(mask)


class CXBlock(nn.Module):
    """ConvNeXt's block: a wide depthwise convolution, then a feed-forward at every cell."""

    def __init__(self, width: int) -> None:
        """Build the block; its branch starts nearly silent."""
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = LayerNorm2d(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.weight = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Map float (batch, width, rows, columns) to the same shape."""
        cells = self.norm(self.dwconv(features)).permute(0, 2, 3, 1)
        cells = self.weight * self.pwconv2(functional.gelu(self.pwconv1(cells)))
        return features + cells.permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    """A frame and its mask in, a memory out."""

    def __init__(self, width: int, spec: MemorySpec) -> None:
        """Build the encoder for image embeddings of `width` channels."""
        super().__init__()
        self.mask_downsampler = MaskDownSampler(width)
        self.pix_feat_proj = nn.Conv2d(width, width, kernel_size=1)
        blocks = nn.Sequential(*(CXBlock(width) for _ in range(FUSER_DEPTH)))
        self.fuser = nn.Sequential(OrderedDict(layers=blocks))
        self.out_proj = nn.Conv2d(width, spec.width, kernel_size=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Fuse a frame with the mask of each object.

        Args:
            image: float (1 or objects, width, rows, columns).
            mask: float (objects, 1, 16 rows, 16 columns) between -10 and 10.

        Returns:
            float (objects, memory width, rows, columns).
        """
        return self.out_proj(self.fuser(self.pix_feat_proj(image) + self.mask_downsampler(mask)))
