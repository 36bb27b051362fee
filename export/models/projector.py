"""The projector: from the multimodal encoder's class state to a prompt of the mask decoder."""

from __future__ import annotations

from torch import nn

__all__ = ["projector"]


def projector(width: int, prompt_width: int) -> nn.Sequential:
    """Build Linear, ReLU, Linear for float (..., width) to (..., prompt_width).

    Source: EVF-SAM (arXiv 2406.20076), section 3.2.
    """
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt_width))
