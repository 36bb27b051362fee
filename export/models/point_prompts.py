"""SAM prompted as its authors meant it: with the points and the box of each mask."""

from __future__ import annotations

from torch import Tensor, nn

from .sam_visual import MASKS, SamVisualModel

__all__ = ["PointPrompts"]


class PointPrompts(nn.Module):
    """An encoded frame and prompts in, every mask that SAM could mean out."""

    def __init__(self, visual_model: SamVisualModel) -> None:
        """Take SAM's prompt encoder and mask decoder, and which mask tokens are decoded."""
        super().__init__()
        self.prompt_encoder = visual_model.prompt_encoder
        self.mask_decoder = visual_model.mask_decoder
        self.masks = MASKS[visual_model.mask_choice]

    def forward(
        self, image_embedding: Tensor, points_xy: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw masks; the answer is the choice of highest predicted IoU.

        SAM puts a box's corners behind the points, and one point of label -1 behind points that
        come without a box. A mask is exactly SAM's where it has no other -1, since these are looked
        at, too: masks with unequally many points come in several calls.

        Args:
            image_embedding: float (1, width, rows, columns).
            points_xy: float (masks, points, 2) in pixels of the prompt frame.
            labels: int64 (masks, points): 0 background, 1 foreground, 2 and 3 the corners of a box,
                -1 no point.

        Returns:
            Logits float (masks, choices, h, w) and predicted IoU float (masks, choices), with one
            choice where `mask_choice` is "single" and SAM's three where it is "best".
        """
        return self.mask_decoder(
            image_embedding,
            self.prompt_encoder.dense_positions(),
            self.prompt_encoder.points(points_xy, labels),
            self.prompt_encoder.no_mask(),
            self.masks,
        )
