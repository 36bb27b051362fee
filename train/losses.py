"""What training minimises: binary cross-entropy and dice on masks, as EVF-SAM's public code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

DICE_SCALE = 1000.0
"""The reference divides both sides by this before it adds its epsilon."""
DICE_EPSILON = 1e-6
IGNORED = -100
"""Label of what is not asked for."""


def mask_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Average the pixels' binary cross-entropy per mask, then the masks.

    Args:
        logits: float (masks, H, W).
        truth: float (masks, H, W) in [0, 1].
    """
    return functional.binary_cross_entropy_with_logits(logits, truth)


def mask_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Average one minus the dice overlap of each mask; arguments as in `mask_bce`."""
    return _dices(logits, truth).mean()


def mask_losses(logits: Tensor, truth: Tensor) -> Tensor:
    """Return each mask's `mask_bce` + `mask_dice` as float (masks,); arguments as there."""
    bce = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return bce.flatten(1).mean(1) + _dices(logits, truth)


def _dices(logits: Tensor, truth: Tensor) -> Tensor:
    probability = logits.sigmoid().flatten(1)
    truth = truth.flatten(1)
    shared = 2 * (probability / DICE_SCALE * truth).sum(-1)
    total = (probability / DICE_SCALE).sum(-1) + (truth / DICE_SCALE).sum(-1)
    return 1 - (shared + DICE_EPSILON) / (total + DICE_EPSILON)


def mask_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """Return each mask's IoU with the truth as float (masks,); two empty masks count 1.

    Args:
        logits: float (masks, H, W); a pixel above 0 is inside.
        truth: bool or float (masks, H, W); a pixel above 0.5 is inside.
    """
    predicted, real = (logits > 0).flatten(1), (truth > 0.5).flatten(1)
    union = (predicted | real).sum(-1)
    shared = (predicted & real).sum(-1)
    return torch.where(union > 0, shared / union.clamp(min=1), torch.ones_like(union))


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Average over the labels that are asked for; zero, not NaN, where a batch asks for none.

    Args:
        logits: float (n, classes).
        labels: int64 (n,), IGNORED where nothing is asked for.
    """
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)
