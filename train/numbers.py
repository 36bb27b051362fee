"""Numbers as waves, so that near numbers are near before anything is learned."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NUMBERS = 1000
"""Coordinates of the text protocol: thousandths of a side, 0 to 999."""
LONGEST_PERIOD = 4000.0
"""The slowest wave tells the ends of the range apart."""
SHORTEST_PERIOD = 16.0
"""The fastest wave, about two pixels of a miniature's view."""
NEIGHBOR_SPREAD = 4.0
"""Standard deviation of a soft target, in thousandths; labels are known to about a pixel."""


def number_waves(width: int, *, count: int = NUMBERS) -> Tensor:
    """Return a row for each number.

    Args:
        width: Even number of channels.
        count: Rows.

    Returns:
        float32 (count, width): sines, then cosines, in periods from LONGEST_PERIOD to
        SHORTEST_PERIOD in equal ratios.
    """
    ratios = torch.linspace(0, 1, width // 2)
    periods = LONGEST_PERIOD * (SHORTEST_PERIOD / LONGEST_PERIOD) ** ratios
    angles = torch.arange(count)[:, None] * (2 * torch.pi / periods)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_waves(grid_hw: tuple[int, int], width: int) -> Tensor:
    """Return a row for each cell of a grid, row after row.

    Args:
        grid_hw: Rows and columns.
        width: Channels, a multiple of four.

    Returns:
        float32 (cells, width): sines, then cosines, of the column, then of the row (Attention Is
        All You Need, section 3.5, in two dimensions).
    """
    quarter = width // 4
    rates = 100 ** -(torch.arange(quarter) / quarter)
    rows, columns = grid_hw
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [cells.flatten()[:, None] * rates for cells in (x, y)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def soft_cross_entropy(logits: Tensor, numbers: Tensor, *, step: int = 1) -> Tensor:
    """Score logits of numbers against bell curves around the true ones.

    Args:
        logits: float (n, classes); class i stands for the number i * step.
        numbers: float (n,) in thousandths.
        step: Thousandths between two classes.

    Returns:
        Cross-entropy less the target's own entropy, float (n,); zero for a perfect guess.
    """
    spread = max(NEIGHBOR_SPREAD, step / 2)
    values = torch.arange(logits.shape[1], device=logits.device) * step
    target = (-0.5 * ((values - numbers[:, None]) / spread) ** 2).softmax(-1)
    return functional.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1)
