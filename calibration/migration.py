"""Channel-wise migration: uneven channels between convolutions move into the weights.

Convolutions that follow each other with nothing but sums, ReLUs and changes of form in between
trade the ranges of their channels for free. GELU and Hardswish are no such thing: a number may not
be pulled through them. In front of a depthwise convolution, whose filters have a scale each and so
take on any range, a product with constants is written instead, which compilers fuse into the GELU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper

from .channels import Channels, Region, balance

__all__ = ["migrate", "migrated_tensors"]


def migrated_tensors(model: onnx.ModelProto, *, quantized: Collection[str] = ()) -> dict[str, int]:
    """Name the tensors whose magnitudes `migrate` needs, each with the axis of its channels."""
    channels = Channels(model)
    folded = [region.read() for region in _linear(channels)]
    names = {name: axis for each in folded for name, axis in each.items()}
    return names | {node.input[0]: 1 for node in _apart(channels, quantized, names)}


def migrate(
    model: onnx.ModelProto,
    absmax: Mapping[str, np.ndarray],
    *,
    strength: float = 0.5,
    quantized: Collection[str] = (),
) -> onnx.ModelProto:
    """Even out the channels that convolutions, and products other than LayerNorms', read.

    Args:
        model: FP32 graph after `passes.split_gemms`.
        absmax: Largest magnitude of each channel of `migrated_tensors(model)`, (channels,).
        strength: Share of the differences that goes to the weights, in [0, 1]; depthwise weights
            always take all of them.
        quantized: Nodes that will be INT8. In front of the depthwise convolutions among them that
            read a nonlinearity, a product is written.

    Returns:
        A graph that computes the same, to the bit: factors are powers of two.

    Source: Trio-ViT (arXiv 2405.03882), section on channel-wise migration; the sharing of channels
    across residuals is that of cross-layer equalization (arXiv 1906.04721), section 4.1.
    """
    channels = Channels(model)
    found = list(_linear(channels))
    folded = {name for region in found for name in region.read()}
    for region in found:
        channels.rescale(region, channels.factors(region, absmax, strength))
    for node in _apart(channels, quantized, folded):
        _write_product(channels, node, absmax[node.input[0]])
    return channels.model()


def _linear(channels: Channels) -> Iterator[Region]:
    """Yield the regions whose channels convolutions and products make."""
    for region in channels.regions():
        if all(node.op_type != "LayerNormalization" for node in region.sources.values()):
            yield region


def _apart(
    channels: Channels, quantized: Collection[str], folded: Collection[str]
) -> list[onnx.NodeProto]:
    """Return the depthwise convolutions that will be quantized and read none of `folded`."""
    return [
        node
        for node in channels.graph.nodes
        if node.name in quantized and channels.is_depthwise(node) and node.input[0] not in folded
    ]


def _write_product(channels: Channels, node: onnx.NodeProto, absmax: np.ndarray) -> None:
    graph = channels.graph
    factors = balance(absmax, np.ones_like(absmax), 1)
    shares = graph.add(f"{node.name}_shares", (1 / factors).reshape(-1, 1, 1))
    even = graph.fresh(f"{node.input[0]}_even")
    product = helper.make_node("Mul", [node.input[0], shares], [even], f"{node.name}_migrate")
    graph.nodes.insert(graph.nodes.index(node), product)
    node.input[0] = even
    channels.multiply_weights(node, factors)
