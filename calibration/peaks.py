"""How many runs it takes to see how far channels reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from .extents import extents_of

__all__ = ["LEAST_VALUES", "runs_for_peaks"]

LEAST_VALUES = 2**16
"""What a channel's peak is taken from at least, if all runs have as many of its values."""


def runs_for_peaks(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    channel_axes: Mapping[str, int],
) -> Sequence[Mapping[str, np.ndarray]]:
    """Choose as many runs as it takes, evenly over all of them.

    Each run of SAM ViT-H has 4096 values of a channel, and sixteen show its peak: factors are
    powers of two and go by its root. BEiT-3's experts for words have a handful, and need all runs.

    Args:
        model: FP32 graph.
        feeds: Inputs by name, of one run each; the first one says how large tensors are.
        channel_axes: Tensors of the graph, each with the axis of its channels.

    Returns:
        Some of `feeds`, in order; all of them where it is not known how large a tensor is.
    """
    if not feeds or not channel_axes:
        return feeds
    extents = extents_of(model, feeds[0])
    values = min(_values(extents.get(name, ()), axis) for name, axis in channel_axes.items())
    total = len(feeds)
    count = min(total, -(-LEAST_VALUES // values)) if values else total
    return [feeds[(2 * number + 1) * total // (2 * count)] for number in range(count)]


def _values(extents: tuple[int, ...], axis: int) -> int:
    """Return how many values each channel has; 0 where that is not known."""
    return math.prod(extents) // extents[axis] if extents and 0 not in extents else 0
