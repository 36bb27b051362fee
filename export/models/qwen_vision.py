"""Qwen2.5-VL's vision tower: attention in windows, rotated by place, and four patches a token.

Source: Qwen2.5-VL (arXiv 2502.13923), section 2.1. Parameter names are those of Hugging Face's
Qwen2_5_VisionTransformerPretrainedModel, which the released files hold under `visual.`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend
from .folding import Foldable

__all__ = ["QWEN_VISION_SPECS", "QwenVisionSpec", "QwenVisionTower"]

FRAMES = 2
"""Frames of a film that a patch spans; a still is two of the same."""
MERGE = 2
"""Side of the square of patches that becomes a token of the language model."""
EPS = 1e-6
"""Epsilon of all norms."""
THETA = 10_000.0
"""Ratio of the fastest rotation to what the slowest tends to."""
HIDDEN = -1e4
"""Logit that hides what fills a window; its weight is zero in FP32 and FP16 alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenVisionSpec:
    """Sizes of one vision tower."""

    image_hw: tuple[int, int]
    """Height and width of the image view in pixels; multiples of `MERGE` patches."""
    patch: int
    """Side of a square patch in pixels."""
    width: int
    """Channels of a patch's token."""
    depth: int
    """Blocks."""
    heads: int
    """Attention heads; four times as many divide the width."""
    mlp_width: int
    """Hidden channels of the blocks' MLPs."""
    window: int
    """Side of an attention window in patches, a multiple of `MERGE`."""
    global_blocks: tuple[int, ...]
    """Indices of the blocks that attend over the whole grid."""
    language_width: int
    """Channels of the language model's tokens."""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the language model's tokens."""
        return self.image_hw[0] // (self.patch * MERGE), self.image_hw[1] // (self.patch * MERGE)


def _official(language_width: int) -> QwenVisionSpec:
    return QwenVisionSpec(
        image_hw=(448, 448), patch=14, width=1280, depth=32, heads=16, mlp_width=3420, window=8,
        global_blocks=(7, 15, 23, 31), language_width=language_width,
    )  # fmt: skip


QWEN_VISION_SPECS = {"3b": _official(2048), "7b": _official(3584)}
"""Language model -> its tower, at a size that windows fill; any other is `replace`d in."""


class PatchEmbedding(Foldable):
    """Patches as tokens."""

    def __init__(self, spec: QwenVisionSpec) -> None:
        """Build the projection of a patch through time."""
        super().__init__()
        extent = (FRAMES, spec.patch, spec.patch)
        self.proj = nn.Conv3d(3, spec.width, extent, extent, bias=False)

    def worked_out(self) -> Tensor:
        """Work out the projection of a patch that stands still."""
        return self.proj.weight.sum(2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float (batch, 3, height, width) to float (batch, rows, columns, width)."""
        patches = functional.conv2d(pixels, self.constant(), stride=self.proj.stride[1:])
        return patches.permute(0, 2, 3, 1)


class Windows(Foldable):
    """A grid of tokens laid out window by window, in each square by square, and back again."""

    def __init__(self, spec: QwenVisionSpec) -> None:
        """Take the grid's and the windows' extent in squares."""
        super().__init__()
        self.grid_hw = spec.grid_hw
        self.side = spec.window // MERGE
        self.count_hw = -(-self.grid_hw[0] // self.side), -(-self.grid_hw[1] // self.side)

    @property
    def is_filled(self) -> bool:
        """True where the grid ends within windows, whose rest is filled."""
        return any(side % self.side for side in self.grid_hw)

    def split(self, grid: Tensor) -> Tensor:
        """Map (batch, rows, columns, width) of patches to (batch, all places, width).

        The last windows are filled with zeros.
        """
        down, along = self.count_hw
        missing = [MERGE * (-side % self.side) for side in self.grid_hw]
        full = functional.pad(grid, (0, 0, 0, missing[1], 0, missing[0]))
        cut = full.unflatten(2, (along, self.side, MERGE)).unflatten(1, (down, self.side, MERGE))
        return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(1, 6)

    def join(self, squares: Tensor) -> Tensor:
        """Map (batch, all squares, width) to (batch, tokens, width) row by row, without filling."""
        rows, columns = self.grid_hw
        cut = squares.unflatten(1, (*self.count_hw, self.side, self.side)).transpose(2, 3)
        return cut.flatten(3, 4).flatten(1, 2)[:, :rows, :columns].flatten(1, 2)

    def worked_out(self) -> Tensor:
        """Work out what hides the filling, float (windows, 1, 1, places in a window)."""
        rows, columns = (MERGE * side for side in self.grid_hw)
        is_filling = self.split(torch.ones(1, rows, columns, 1)) == 0
        return HIDDEN * is_filling.view(-1, 1, 1, (MERGE * self.side) ** 2).float()


class Rotation(Foldable):
    """How far each channel of a token turns for the row and the column it stands in."""

    def __init__(self, spec: QwenVisionSpec) -> None:
        """Take the places of `spec`."""
        super().__init__()
        self.spec = spec

    def worked_out(self) -> Tensor:
        """Work out cosine and sine, float (2, all places, 1, half a head's channels)."""
        spec = self.spec
        rows, columns = (torch.arange(MERGE * side).float() for side in spec.grid_hw)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        quarter = spec.width // spec.heads // 4
        speeds = THETA ** (-torch.arange(quarter) / quarter)
        angles = Windows(spec).split(places[None])[0].unsqueeze(-1) * speeds
        return torch.stack([angles.cos(), angles.sin()]).flatten(2).unsqueeze(2)


class Attention(nn.Module):
    """Self-attention within windows or over all of them."""

    def __init__(self, spec: QwenVisionSpec, *, is_global: bool) -> None:
        """Build the projections."""
        super().__init__()
        self.heads = spec.heads
        self.window = None if is_global else spec.window**2
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, tokens: Tensor, rotation: Tensor, bias: Tensor | None) -> Tensor:
        """Map float (batch, all places, width) to the same shape; see `Rotation`, `Windows`."""
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        turned = self._turn(query, rotation), self._turn(key, rotation), value
        if bias is not None and self.window is None:
            bias = bias.view(1, 1, 1, -1)
        elif bias is not None:
            bias = bias.repeat(tokens.shape[0], 1, 1, 1)
        parts = (self._part(each) for each in turned)
        return self.proj(attend(*parts, heads=self.heads, bias=bias).reshape(tokens.shape))

    def _turn(self, tokens: Tensor, rotation: Tensor) -> Tensor:
        cosine, sine = rotation
        first, second = tokens.unflatten(-1, (self.heads, 2, -1)).unbind(-2)
        turned = first * cosine - second * sine, second * cosine + first * sine
        return torch.stack(turned, dim=-2).flatten(2)

    def _part(self, tokens: Tensor) -> Tensor:
        if self.window is None:
            return tokens
        return tokens.reshape(-1, self.window, tokens.shape[-1])


class GatedMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, mlp_width: int) -> None:
        """Build the three maps."""
        super().__init__()
        self.gate_proj = nn.Linear(width, mlp_width)
        self.up_proj = nn.Linear(width, mlp_width)
        self.down_proj = nn.Linear(mlp_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (..., width) to the same shape."""
        return self.down_proj(functional.silu(self.gate_proj(tokens)) * self.up_proj(tokens))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, spec: QwenVisionSpec, *, is_global: bool) -> None:
        """Build one block."""
        super().__init__()
        self.norm1 = nn.RMSNorm(spec.width, eps=EPS)
        self.attn = Attention(spec, is_global=is_global)
        self.norm2 = nn.RMSNorm(spec.width, eps=EPS)
        self.mlp = GatedMLP(spec.width, spec.mlp_width)

    def forward(self, tokens: Tensor, rotation: Tensor, bias: Tensor | None) -> Tensor:
        """Map float (batch, all places, width) to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens), rotation, bias)
        return tokens + self.mlp(self.norm2(tokens))


class PatchMerger(nn.Module):
    """A square of patches as a token of the language model."""

    def __init__(self, width: int, language_width: int) -> None:
        """Build the norm of a patch and the MLP of a square."""
        super().__init__()
        square = MERGE**2 * width
        self.ln_q = nn.RMSNorm(width, eps=EPS)
        self.mlp = nn.Sequential(
            nn.Linear(square, square), nn.GELU(), nn.Linear(square, language_width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (batch, places, width) to float (batch, places / 4, language_width)."""
        return self.mlp(self.ln_q(tokens).unflatten(1, (-1, MERGE**2)).flatten(2))


class QwenVisionTower(nn.Module):
    """Image view in, tokens of the language model out."""

    def __init__(self, spec: QwenVisionSpec) -> None:
        """Build the network of `spec` with random weights."""
        super().__init__()
        self.windows = Windows(spec)
        self.patch_embed = PatchEmbedding(spec)
        self.rotation = Rotation(spec)
        self.blocks = nn.ModuleList(
            Block(spec, is_global=index in spec.global_blocks) for index in range(spec.depth)
        )
        self.merger = PatchMerger(spec.width, spec.language_width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float (batch, 3, *image_hw), normalised, to float (batch, tokens, language_width)."""
        tokens = self.windows.split(self.patch_embed(pixels))
        rotation = self.rotation.constant().to(tokens)
        bias = self.windows.constant().to(tokens) if self.windows.is_filled else None
        for block in self.blocks:
            tokens = block(tokens, rotation, bias)
        return self.windows.join(self.merger(tokens))
