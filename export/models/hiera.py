"""Hiera and its neck, SAM-2's image encoder: windowed attention in four stages, three maps out.

Source: Hiera (arXiv 2306.00989), its windowed position embedding (arXiv 2311.05613), SAM 2
(arXiv 2408.00714) and SAM 2's reference implementation, whose parameter names are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend
from .folding import Foldable

__all__ = ["HIERA_SPECS", "FeedForward", "Hiera", "HieraImageEncoder", "HieraSpec"]

EPS = 1e-6
"""Epsilon of every LayerNorm of the trunk."""
PATCH_STRIDE = 4
"""Pixels per cell of the first stage; every later stage halves the grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HieraSpec:
    """Sizes of one Hiera with its neck, stage 0 first."""

    image_hw: tuple[int, int]
    """Height and width of the image view in pixels, multiples of 32."""
    width: int
    """Channels of stage 0; each later stage doubles them."""
    heads: int
    """Attention heads of stage 0; each later stage doubles them."""
    depths: tuple[int, int, int, int]
    """Blocks of each stage."""
    windows: tuple[int, int, int, int]
    """Side of each stage's attention windows in cells."""
    global_blocks: tuple[int, ...]
    """Blocks, counted through all stages, whose attention sees the whole grid."""
    background_hw: tuple[int, int]
    """Height and width of the coarse position embedding in cells."""
    out_width: int
    """Channels of the neck's maps."""


def _official(
    width: int,
    heads: int,
    depths: tuple[int, int, int, int],
    global_blocks: tuple[int, ...],
    windows: tuple[int, int, int, int] = (8, 4, 14, 7),
    background_hw: tuple[int, int] = (7, 7),
) -> HieraSpec:
    return HieraSpec(
        image_hw=(1024, 1024), width=width, heads=heads, depths=depths, windows=windows,
        global_blocks=global_blocks, background_hw=background_hw, out_width=256,
    )  # fmt: skip


HIERA_SPECS = {
    "tiny": _official(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "small": _official(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "base-plus": _official(112, 2, (2, 3, 16, 3), (12, 16, 20), background_hw=(14, 14)),
    "large": _official(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
    "mini": HieraSpec(
        image_hw=(256, 320), width=32, heads=1, depths=(1, 1, 3, 1), windows=(8, 4, 8, 4),
        global_blocks=(4,), background_hw=(7, 7), out_width=128,
    ),
}  # fmt: skip


class FeedForward(nn.Module):
    """Two linear maps around an activation, under SAM-2's names."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        """Build the two maps."""
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, width)])
        self.activation = activation

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (..., width) to the same shape."""
        widen, narrow = self.layers
        return narrow(self.activation(widen(tokens)))


class PatchEmbed(nn.Module):
    """Overlapping patches of 7 x 7 pixels, four pixels apart."""

    def __init__(self, width: int) -> None:
        """Build the convolution."""
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=7, stride=PATCH_STRIDE, padding=3)

    def forward(self, image: Tensor) -> Tensor:
        """Map float (batch, 3, height, width) to (batch, height / 4, width / 4, channels)."""
        return self.proj(image).permute(0, 2, 3, 1)


class WindowAttention(nn.Module):
    """Attention inside windows; where a stage begins, pooled queries shrink each window."""

    def __init__(self, inputs: int, outputs: int, heads: int, *, pools_queries: bool) -> None:
        """Build projections of `inputs` to `outputs` channels."""
        super().__init__()
        self.heads = heads
        self.pools_queries = pools_queries
        self.qkv = nn.Linear(inputs, 3 * outputs)
        self.proj = nn.Linear(outputs, outputs)

    def forward(self, windows: Tensor) -> Tensor:
        """Map float (windows, rows, columns, inputs) to outputs, on half the rows if it pools."""
        query, key, value = self.qkv(windows).chunk(3, dim=-1)
        if self.pools_queries:
            query = _pool(query)
        cells = (part.flatten(1, 2) for part in (query, key, value))
        return self.proj(attend(*cells, heads=self.heads)).unflatten(1, query.shape[1:3])


class Block(nn.Module):
    """Attention and feed-forward; the first block of a stage also halves the grid."""

    def __init__(self, inputs: int, outputs: int, heads: int, window: int) -> None:
        """Build a block; it halves the grid where `outputs` differs from `inputs`.

        Args:
            inputs: Channels that come in.
            outputs: Channels that go out.
            heads: Divides `outputs`.
            window: Side of the windows in cells of the grid that comes in; 0 is one for all.
        """
        super().__init__()
        self.window = window
        opens_stage = outputs != inputs
        self.norm1 = nn.LayerNorm(inputs, eps=EPS)
        self.attn = WindowAttention(inputs, outputs, heads, pools_queries=opens_stage)
        self.norm2 = nn.LayerNorm(outputs, eps=EPS)
        self.mlp = FeedForward(outputs, 4 * outputs, nn.GELU())
        self.proj = nn.Linear(inputs, outputs) if opens_stage else None

    def forward(self, cells: Tensor) -> Tensor:
        """Map float (batch, rows, columns, inputs) to (batch, rows, columns, outputs).

        Windows that reach over the grid's edge are filled with zeros, which take part.
        """
        normed = self.norm1(cells)
        shortcut = cells if self.proj is None else _pool(self.proj(normed))
        rows, columns = cells.shape[1:3]
        window_hw = (self.window, self.window) if self.window else (rows, columns)
        mixed = self.attn(_windows_from_grid(normed, window_hw))
        rows, columns = shortcut.shape[1:3]
        cells = shortcut + _grid_from_windows(mixed, (rows, columns))
        return cells + self.mlp(self.norm2(cells))


def _pool(cells: Tensor) -> Tensor:
    """Take the maximum of each 2 x 2 cells of float (batch, rows, columns, channels)."""
    return functional.max_pool2d(cells.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _windows_from_grid(cells: Tensor, window_hw: tuple[int, int]) -> Tensor:
    """Cut (batch, rows, columns, channels) into (batch * windows, *window_hw, channels)."""
    below, right = (-cells.shape[1] % window_hw[0]), (-cells.shape[2] % window_hw[1])
    if below or right:
        cells = functional.pad(cells, (0, 0, 0, right, 0, below))
    windows = cells.unflatten(2, (-1, window_hw[1])).unflatten(1, (-1, window_hw[0]))
    return windows.transpose(2, 3).flatten(0, 2)


def _grid_from_windows(windows: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Put (batch * windows, rows, columns, channels) together as (batch, *grid_hw, channels)."""
    below, right = (-(-grid_hw[axis] // windows.shape[1 + axis]) for axis in range(2))
    cells = windows.unflatten(0, (-1, below, right)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return cells[:, : grid_hw[0], : grid_hw[1]]


class Hiera(Foldable):
    """The trunk: four stages of blocks on a grid that each stage halves."""

    def __init__(self, spec: HieraSpec) -> None:
        """Build patches, positions and blocks."""
        super().__init__()
        self.grid_hw = (spec.image_hw[0] // PATCH_STRIDE, spec.image_hw[1] // PATCH_STRIDE)
        self.depths = spec.depths
        self.patch_embed = PatchEmbed(spec.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, spec.width, *spec.background_hw))
        side = spec.windows[0]
        self.pos_embed_window = nn.Parameter(torch.zeros(1, spec.width, side, side))
        self.blocks = nn.ModuleList(_blocks(spec))

    def positions(self) -> Tensor:
        """Return the first stage's position embedding as float (1, rows, columns, width)."""
        return self.constant()

    def worked_out(self) -> Tensor:
        """Scale a coarse background up bicubically and add one window's embedding to each."""
        rows, columns = self.grid_hw
        background = functional.interpolate(
            self.pos_embed, self.grid_hw, mode="bicubic", align_corners=False
        )
        side = self.pos_embed_window.shape[-1]
        tiles = self.pos_embed_window.tile(1, 1, rows // side, columns // side)
        return (background + tiles).permute(0, 2, 3, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map float (batch, 3, *image_hw) to the features of every stage, stage 0 first.

        Stage s gives float (batch, width * 2 ** s, height / 2 ** (s + 2), width / 2 ** (s + 2)).
        """
        cells = self.patch_embed(image) + self.positions()
        stages, blocks = [], iter(self.blocks)
        for depth in self.depths:
            for _ in range(depth):
                cells = next(blocks)(cells)
            stages.append(cells.permute(0, 3, 1, 2))
        return stages


def _blocks(spec: HieraSpec) -> list[Block]:
    """Build all blocks; the one that opens a stage still has the windows of the stage before."""
    blocks: list[Block] = []
    inputs, window = spec.width, spec.windows[0]
    for stage, depth in enumerate(spec.depths):
        outputs, heads = spec.width << stage, spec.heads << stage
        for _ in range(depth):
            is_global = len(blocks) in spec.global_blocks
            blocks.append(Block(inputs, outputs, heads, 0 if is_global else window))
            inputs, window = outputs, spec.windows[stage]
    return blocks


class FpnNeck(nn.Module):
    """All stages on one width; the deepest helps only the one above it, then is dropped."""

    def __init__(self, spec: HieraSpec) -> None:
        """Build a 1 x 1 convolution per stage, the deepest first."""
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=nn.Conv2d(spec.width << stage, spec.out_width, 1)))
            for stage in reversed(range(len(spec.depths)))
        )

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Map the features of all stages to maps at strides 16, 8 and 4.

        Returns:
            Three float (batch, out_width, height / stride, width / stride).
        """
        deepest, stride16, stride8, stride4 = (
            conv(stage) for conv, stage in zip(self.convs, reversed(stages), strict=True)
        )
        context = functional.interpolate(deepest.float(), scale_factor=2.0, mode="nearest")
        return stride16 + context, stride8, stride4


class HieraImageEncoder(nn.Module):
    """Image view in, three feature maps out."""

    def __init__(self, spec: HieraSpec) -> None:
        """Build trunk and neck with random weights."""
        super().__init__()
        self.trunk = Hiera(spec)
        self.neck = FpnNeck(spec)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map float (batch, 3, *image_hw) to float (batch, out_width, ...) at stride 16, 8, 4."""
        return self.neck(self.trunk(image))
