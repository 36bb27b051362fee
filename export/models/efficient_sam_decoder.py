"""EfficientSAM's prompt encoder and mask decoder: SAM's plan with other names and other maths.

Source: EfficientSAM (arXiv 2312.00863) and its reference implementation, whose parameter names are
kept. Against SAM: the first layer's self-attention has a residual, the second one's adds the
positions to the tokens for good, activations are GELU, the upscaling is normalised over the whole
map, and no dense embedding joins the image.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from . import sam
from .folding import Foldable

__all__ = ["MaskDecoder", "PromptEncoder"]


class PromptEncoder(Foldable):
    """Positions of the image's cells, and embeddings of points and boxes that words don't use."""

    def __init__(self, spec: sam.SamSpec) -> None:
        """Build the embeddings of `spec.width` channels."""
        super().__init__()
        self.grid_hw = spec.grid_hw
        self.pe_layer = sam.FourierPositions(spec.width)
        self.invalid_points = nn.Embedding(1, spec.width)
        self.point_embeddings = nn.Embedding(1, spec.width)
        self.bbox_top_left_embeddings = nn.Embedding(1, spec.width)
        self.bbox_bottom_right_embeddings = nn.Embedding(1, spec.width)

    def dense_positions(self) -> Tensor:
        """Return the positions of the grid's cell centres as float (1, width, rows, columns)."""
        return self.constant()

    def worked_out(self) -> Tensor:
        """Work `dense_positions` out."""
        return self.pe_layer.grid(self.grid_hw)


class MLP(nn.Module):
    """Linear maps with GELU between them."""

    def __init__(self, width: int, hidden: int, outputs: int, *, depth: int) -> None:
        """Build `depth` maps to `hidden` channels and one to `outputs`."""
        super().__init__()
        sizes = (width, *(hidden,) * depth)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(*pair), nn.GELU()) for pair in pairwise(sizes))
        )
        self.fc = nn.Linear(hidden, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (..., width) to float (..., outputs)."""
        return self.fc(self.layers(tokens))


class TwoWayLayer(sam.TwoWayLayer):
    """SAM's layer but for the MLP and for how the prompt tokens look at each other."""

    def __init__(self, spec: sam.SamSpec, *, is_first: bool) -> None:
        """Build one layer; the first one's self-attention has no positions."""
        super().__init__(spec, is_first=is_first)
        self.mlp = MLP(spec.width, spec.mlp_width, spec.width, depth=1)

    def meet(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Let tokens float (batch, tokens, width) look at each other; the same shape returns."""
        if not self.is_first:
            tokens = tokens + positions
        return tokens + self.self_attn(tokens, tokens, tokens)


class MaskDecoder(nn.Module):
    """Image embedding and prompt tokens in, mask logits and predicted IoU out."""

    def __init__(self, spec: sam.SamSpec) -> None:
        """Build transformer, upscaling and heads."""
        super().__init__()
        width = spec.width
        self.transformer = sam.TwoWayTransformer(spec, TwoWayLayer)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(sam.MASK_TOKENS, width)
        self.final_output_upscaling_layers = nn.Sequential(
            nn.Sequential(
                nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
                nn.GroupNorm(1, width // 4),
                nn.GELU(),
            ),
            nn.Sequential(
                nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2), nn.GELU()
            ),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(width, width, width // 8, depth=2) for _ in range(sam.MASK_TOKENS)
        )
        self.iou_prediction_head = MLP(width, width, sam.MASK_TOKENS, depth=2)

    def forward(
        self, image: Tensor, positions: Tensor, sparse: Tensor, masks: slice
    ) -> tuple[Tensor, Tensor]:
        """Decode one set of masks per prompt.

        Args:
            image: float (1 or batch, width, rows, columns), shared or one per prompt.
            positions: float (1, width, rows, columns), `PromptEncoder.dense_positions`.
            sparse: float (batch, tokens, width).
            masks: Which mask tokens to decode: `slice(0, 1)` is the single mask, `slice(1, 4)`
                are the three ambiguous ones.

        Returns:
            Logits float (batch, masks, 4 rows, 4 columns) and predicted IoU float (batch, masks).
        """
        batch = sparse.shape[0]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(batch, -1, -1), sparse], dim=1)
        cells = image.flatten(2).mT.expand(batch, -1, -1)
        tokens, cells = self.transformer(cells, positions.flatten(2).mT, tokens)
        upscaled = self.final_output_upscaling_layers(cells.mT.unflatten(-1, image.shape[-2:]))
        chosen = list(enumerate(self.output_hypernetworks_mlps, start=1))[masks]
        weights = torch.stack([head(tokens[:, index]) for index, head in chosen], dim=1)
        logits = (weights @ upscaled.flatten(2)).unflatten(-1, upscaled.shape[-2:])
        return logits, self.iou_prediction_head(tokens[:, 0])[:, masks]
