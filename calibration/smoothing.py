"""SmoothQuant: outliers of a LayerNorm's channels move into the weights of what reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from .channels import Channels, Region

__all__ = ["smooth", "smoothed_tensors"]


def smoothed_tensors(model: onnx.ModelProto) -> dict[str, int]:
    """Name the tensors whose magnitudes `smooth` needs, each with the axis of its channels."""
    found = (region.read() for region in _normalized(Channels(model)))
    return {name: axis for each in found for name, axis in each.items()}


def smooth(
    model: onnx.ModelProto, absmax: Mapping[str, np.ndarray], *, strength: float = 0.5
) -> onnx.ModelProto:
    """Divide the scale and bias of LayerNorms by factors and multiply the matrices behind them.

    A LayerNorm is left alone unless products with constant matrices are all that reads it, at once
    or out of windows; queries, keys and values share its factors. With BEiT-3's sub-LayerNorms that
    takes in every product of the network, in SAM's ViT all but `proj` and `lin2`.

    Args:
        model: FP32 graph after `passes.split_gemms`.
        absmax: Largest magnitude of each channel of `smoothed_tensors(model)`, (channels,).
        strength: SmoothQuant's alpha in [0, 1]: 0 leaves the differences of the activations, 1
            moves all of them into the weights.

    Returns:
        A graph that computes the same, to the bit: factors are powers of two.

    Source: SmoothQuant (arXiv 2211.10438), section 4.
    """
    channels = Channels(model)
    for region in _normalized(channels):
        channels.rescale(region, channels.factors(region, absmax, strength))
    return channels.model()


def _normalized(channels: Channels) -> Iterator[Region]:
    """Yield the regions whose channels a LayerNorm makes."""
    for region in channels.regions():
        if all(node.op_type == "LayerNormalization" for node in region.sources.values()):
            yield region
