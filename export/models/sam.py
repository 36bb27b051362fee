"""SAM's prompt encoder and mask decoder, shared by every system that ends in a SAM mask.

Source: Segment Anything (arXiv 2304.02643), appendix A, and its reference implementation, whose
parameter names are kept. EfficientViT-SAM uses the same two modules with other LayerNorm epsilons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend
from .folding import Foldable

__all__ = [
    "MASK_TOKENS",
    "FourierPositions",
    "LayerNorm2d",
    "MaskDecoder",
    "PromptEncoder",
    "SamSpec",
    "TwoWayLayer",
    "TwoWayTransformer",
]

MASK_TOKENS = 4
"""One token for the single mask and three for SAM's ambiguous whole, part and subpart."""
BOX_CORNER_LABELS = (2, 3)
"""Rows of `point_embeddings` for a box's top-left and bottom-right corner; 0 and 1 are points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamSpec:
    """Sizes of SAM's prompt encoder and mask decoder."""

    width: int
    """Channels of prompts and image embedding."""
    heads: int
    """Attention heads of the decoder."""
    mlp_width: int
    """Hidden channels of the decoder's MLP blocks."""
    grid_hw: tuple[int, int]
    """Height and width of the image embedding in cells."""
    frame_hw: tuple[int, int]
    """Height and width in pixels of the frame that prompt coordinates live in."""
    eps: float
    """Epsilon of the decoder's token LayerNorms: 1e-5 in SAM, 1e-6 in EfficientViT-SAM."""


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of a feature map."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        """Build scale and shift for `channels`."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Normalise float (batch, channels, height, width) at every cell."""
        centered = features - features.mean(1, keepdim=True)
        variance = centered.square().mean(1, keepdim=True)
        normed = centered * torch.rsqrt(variance + self.eps)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class FourierPositions(nn.Module):
    """Random Fourier features of coordinates in [0, 1]."""

    positional_encoding_gaussian_matrix: Tensor
    """float (2, width // 2): frequencies of x and y."""

    def __init__(self, width: int) -> None:
        """Draw the frequencies; a checkpoint replaces them."""
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, xy: Tensor) -> Tensor:
        """Map float (..., 2) in [0, 1] to float (..., width)."""
        phase = 2 * math.pi * ((2 * xy - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def grid(self, grid_hw: tuple[int, int]) -> Tensor:
        """Return the positions of a grid's cell centres as float (1, width, rows, columns)."""
        matrix = self.positional_encoding_gaussian_matrix
        y, x = ((torch.arange(cells).to(matrix) + 0.5) / cells for cells in grid_hw)
        xy = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        return self(xy).permute(2, 0, 1).unsqueeze(0)


class PromptEncoder(Foldable):
    """Points, boxes and dense masks as tokens of the decoder."""

    def __init__(self, spec: SamSpec) -> None:
        """Build the embeddings of `spec.width` channels."""
        super().__init__()
        self.spec = spec
        self.pe_layer = FourierPositions(spec.width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, spec.width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, spec.width)
        self.no_mask_embed = nn.Embedding(1, spec.width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, kernel_size=2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, kernel_size=2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, spec.width, kernel_size=1),
        )

    def dense_positions(self) -> Tensor:
        """Return the positions of the grid's cell centres as float (1, width, rows, columns)."""
        return self.constant()

    def worked_out(self) -> Tensor:
        """Work `dense_positions` out."""
        return self.pe_layer.grid(self.spec.grid_hw)

    def no_mask(self) -> Tensor:
        """Return the dense embedding of "no mask given" as float (1, width, 1, 1)."""
        return self.no_mask_embed.weight[:, :, None, None]

    def points(self, points_xy: Tensor, labels: Tensor) -> Tensor:
        """Embed points as float (batch, points, width).

        Args:
            points_xy: float (batch, points, 2) in pixels of the prompt frame.
            labels: int64 (batch, points): 0 background, 1 foreground, 2 and 3 the corners of a
                box, -1 no point (SAM pads points given without a box with one of these).
        """
        height, width = self.spec.frame_hw
        positions = self.pe_layer((points_xy + 0.5) / points_xy.new_tensor([width, height]))
        is_point = (labels >= 0).unsqueeze(-1)
        kinds = torch.cat(list(self.point_embeddings.parameters()))
        point = positions + kinds[labels.clamp(min=0)]
        return torch.where(is_point, point, self.not_a_point_embed.weight)

    def boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """Embed boxes float (batch, 4), in pixels of the prompt frame, as (batch, 2, width)."""
        labels = torch.tensor(BOX_CORNER_LABELS, device=boxes_xyxy.device)
        return self.points(boxes_xyxy.unflatten(-1, (2, 2)), labels.expand(len(boxes_xyxy), 2))

    def masks(self, logits: Tensor) -> Tensor:
        """Embed logits float (batch, 1, 4 rows, 4 columns) as (batch, width, rows, columns)."""
        return self.mask_downscaling(logits)


class Attention(nn.Module):
    """Attention whose inner width may be smaller than the tokens'."""

    def __init__(self, width: int, heads: int, reduction: int = 1) -> None:
        """Build projections of `width` to `width // reduction` channels."""
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width // reduction)
        self.k_proj = nn.Linear(width, width // reduction)
        self.v_proj = nn.Linear(width, width // reduction)
        self.out_proj = nn.Linear(width // reduction, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend over float (batch, tokens, width) arguments."""
        mixed = attend(self.q_proj(query), self.k_proj(key), self.v_proj(value), heads=self.heads)
        return self.out_proj(mixed)


class MLPBlock(nn.Module):
    """The decoder layers' two linear maps around a ReLU."""

    def __init__(self, width: int, mlp_width: int) -> None:
        """Build the two maps."""
        super().__init__()
        self.lin1 = nn.Linear(width, mlp_width)
        self.lin2 = nn.Linear(mlp_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (..., width) to the same shape."""
        return self.lin2(functional.relu(self.lin1(tokens)))


class TwoWayLayer(nn.Module):
    """Prompt tokens look at each other and at the image, then the image looks back."""

    def __init__(self, spec: SamSpec, *, is_first: bool) -> None:
        """Build one layer; the first one's self-attention has neither positions nor a residual."""
        super().__init__()
        self.is_first = is_first
        self.self_attn = Attention(spec.width, spec.heads)
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.cross_attn_token_to_image = Attention(spec.width, spec.heads, reduction=2)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.mlp = MLPBlock(spec.width, spec.mlp_width)
        self.norm3 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.norm4 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.cross_attn_image_to_token = Attention(spec.width, spec.heads, reduction=2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_positions: Tensor, image_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update tokens float (batch, tokens, width) and image float (batch, cells, width)."""
        tokens = self.norm1(self.meet(tokens, token_positions))
        image_key = image + image_positions
        tokens = self.norm2(
            tokens + self.cross_attn_token_to_image(tokens + token_positions, image_key, image)
        )
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(
            image + self.cross_attn_image_to_token(image_key, tokens + token_positions, tokens)
        )
        return tokens, image

    def meet(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Let tokens float (batch, tokens, width) look at each other; the same shape returns."""
        if self.is_first:
            return self.self_attn(tokens, tokens, tokens)
        query = tokens + positions
        return tokens + self.self_attn(query, query, tokens)


class TwoWayTransformer(nn.Module):
    """Two layers of two-way attention and a last look of the tokens at the image."""

    def __init__(self, spec: SamSpec, layer: type[TwoWayLayer] = TwoWayLayer) -> None:
        """Build two layers of the kind `layer`."""
        super().__init__()
        self.layers = nn.ModuleList(layer(spec, is_first=index == 0) for index in range(2))
        self.final_attn_token_to_image = Attention(spec.width, spec.heads, reduction=2)
        self.norm_final_attn = nn.LayerNorm(spec.width, eps=spec.eps)

    def forward(self, image: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Update both; the tokens' positions are their first values.

        Args:
            image: float (batch, cells, width).
            positions: float (1, cells, width).
            tokens: float (batch, tokens, width).

        Returns:
            Tokens and image, of the same shapes.
        """
        first = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, first, positions)
        look = self.final_attn_token_to_image(tokens + first, image + positions, image)
        return self.norm_final_attn(tokens + look), image


class MLP(nn.Module):
    """A head of three linear maps with ReLU between them."""

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        """Build the three maps."""
        super().__init__()
        sizes = (width, hidden, hidden, outputs)
        self.layers = nn.ModuleList(
            nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (..., width) to float (..., outputs)."""
        *hidden, last = self.layers
        for layer in hidden:
            tokens = functional.relu(layer(tokens))
        return last(tokens)


class MaskDecoder(nn.Module):
    """Image embedding and prompt tokens in, mask logits and predicted IoU out."""

    def __init__(self, spec: SamSpec) -> None:
        """Build transformer, upscaling and heads."""
        super().__init__()
        width = spec.width
        self.transformer = TwoWayTransformer(spec)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(width, width, width // 8) for _ in range(MASK_TOKENS)
        )
        self.iou_prediction_head = MLP(width, width, MASK_TOKENS)

    def forward(
        self, image: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor, masks: slice
    ) -> tuple[Tensor, Tensor]:
        """Decode one set of masks per prompt.

        Args:
            image: float (1 or batch, width, rows, columns), shared or one per prompt.
            positions: float (1, width, rows, columns), `PromptEncoder.dense_positions`.
            sparse: float (batch, tokens, width).
            dense: float, broadcastable to (batch, width, rows, columns).
            masks: Which mask tokens to decode: `slice(0, 1)` is SAM's single mask,
                `slice(1, 4)` its three ambiguous ones.

        Returns:
            Logits float (batch, masks, 4 rows, 4 columns) and predicted IoU float (batch, masks).
        """
        batch, (rows, columns) = sparse.shape[0], image.shape[-2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(batch, -1, -1).to(sparse.dtype), sparse], dim=1)
        cells = (image + dense).flatten(2).transpose(1, 2).expand(batch, -1, -1)
        tokens, cells = self.transformer(cells, positions.flatten(2).transpose(1, 2), tokens)
        upscaled = self.output_upscaling(cells.transpose(1, 2).unflatten(-1, (rows, columns)))
        chosen = list(enumerate(self.output_hypernetworks_mlps))[masks]
        weights = torch.stack([head(tokens[:, 1 + index]) for index, head in chosen], dim=1)
        logits = (weights @ upscaled.flatten(2)).unflatten(-1, (4 * rows, 4 * columns))
        return logits, self.iou_prediction_head(tokens[:, 0])[:, masks]
