"""The projector: from the multimodal encoder's class state to a prompt of the mask decoder."""

from __future__ import annotations

from torch import nn


def projector(width: int, prompt_width: int) -> nn.Sequential:
    """Build Linear, ReLU, Linear from `width` to `prompt_width` channels (EVF-SAM, section 3.2)."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt_width))
