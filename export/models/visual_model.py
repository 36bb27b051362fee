"""What EVF-SAM asks of a segment-anything model, whichever one it is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Protocol

from torch import Tensor, nn

from .sam import SamSpec

__all__ = ["VisualModel", "VisualSpec"]


class VisualSpec(Protocol):
    """Sizes of such a model."""

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the image view in pixels."""
        ...

    @property
    def mask_decoder(self) -> SamSpec:
        """Sizes behind the image encoder."""
        ...

    @property
    def mask_choice(self) -> str:
        """Which mask of a prompt is the answer, one of the model's `mask_choices`."""
        ...


class VisualModel(nn.Module):
    """Encodes a frame once and draws a mask for each prompt, under the reference's names."""

    feature_names: ClassVar[tuple[str, ...]]
    """What `encode` returns."""
    mask_choices: ClassVar[tuple[str, ...]]
    """Values of `mask_choice`: SAM's "single" mask, the "best" of its three others by predicted
    IoU, or the single one unless it is not "stable"."""
    mask_choice: str
    """Which of them `decode` draws."""

    @abstractmethod
    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map a normalised view float (batch, 3, height, width) to `feature_names`."""

    @abstractmethod
    def decode(self, features: tuple[Tensor, ...], sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one mask per prompt.

        Args:
            features: What `encode` returned for one frame, or for one frame per prompt.
            sparse: float (prompts, tokens, width), prompt tokens.

        Returns:
            Logits float (prompts, 1, h, w) and predicted IoU float (prompts, 1).
        """
