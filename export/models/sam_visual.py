"""SAM around any image encoder of one embedding, prompted by embedded words.

Source: Segment Anything (arXiv 2304.02643) and EVF-SAM (arXiv 2406.20076), section 3.2; the parts
have the names of SAM's reference implementation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .efficientvit import EfficientViTSamImageEncoder, EfficientViTSpec
from .sam import MASK_TOKENS, MaskDecoder, PromptEncoder, SamSpec
from .sam_vit import SamVitImageEncoder, SamVitSpec
from .visual_model import VisualModel

__all__ = ["SamVisualModel", "SamVisualSpec"]

MASKS = {"single": slice(0, 1), "best": slice(1, MASK_TOKENS)}
"""The mask tokens that are decoded for each choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamVisualSpec:
    """Sizes of one SAM."""

    image_encoder: SamVitSpec | EfficientViTSpec
    """What sees the frame."""
    mask_decoder: SamSpec
    """What draws the mask."""
    mask_choice: str
    """Key of `MASKS`."""

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the image view in pixels."""
        return self.image_encoder.image_hw


class SamVisualModel(VisualModel):
    """Image encoder, prompt encoder and mask decoder under the reference's names."""

    feature_names = ("image_embedding",)
    mask_choices = tuple(MASKS)

    def __init__(self, spec: SamVisualSpec) -> None:
        """Build the three parts with random weights."""
        super().__init__()
        self.mask_choice = spec.mask_choice
        self.image_encoder = (
            SamVitImageEncoder(spec.image_encoder)
            if isinstance(spec.image_encoder, SamVitSpec)
            else EfficientViTSamImageEncoder(spec.image_encoder)
        )
        self.prompt_encoder = PromptEncoder(spec.mask_decoder)
        self.mask_decoder = MaskDecoder(spec.mask_decoder)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map float (batch, 3, height, width), normalised, to (batch, width, rows, columns)."""
        return (self.image_encoder(image),)

    def decode(self, features: tuple[Tensor, ...], sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one mask per prompt; see `VisualModel.decode`."""
        (image_embedding,) = features
        logits, iou = self.mask_decoder(
            image_embedding,
            self.prompt_encoder.dense_positions(),
            sparse,
            self.prompt_encoder.no_mask(),
            MASKS[self.mask_choice],
        )
        return _best(logits, iou) if self.mask_choice == "best" else (logits, iou)


def _best(logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the mask of highest predicted IoU of each prompt."""
    index = iou.argmax(dim=1, keepdim=True)
    chosen = index[:, :, None, None].expand(-1, -1, *logits.shape[-2:])
    return logits.gather(1, chosen), iou.gather(1, index)
