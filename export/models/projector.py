"""Projectors: from what one network saw to what another one reads."""

from __future__ import annotations

from torch import nn

__all__ = ["language_projector", "projector"]


def projector(width: int, prompt_width: int) -> nn.Sequential:
    """Build Linear, ReLU, Linear for float (..., width) to (..., prompt_width).

    It makes a prompt of SAM's mask decoder from the multimodal encoder's class state.

    Source: EVF-SAM (arXiv 2406.20076), section 3.2.
    """
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt_width))


def language_projector(width: int, language_width: int) -> nn.Sequential:
    """Build Linear, GELU, Linear for float (..., width) to (..., language_width).

    It makes tokens of a language model from a vision tower's features.

    Source: LLaVA-1.5 (arXiv 2310.03744), section 3.2, "mlp2x_gelu".
    """
    return nn.Sequential(
        nn.Linear(width, language_width), nn.GELU(), nn.Linear(language_width, language_width)
    )
