"""Signs for keys: channels that lie on either side of zero are turned to one side.

Behind the key projection of SAM's attentions each channel keeps to one side of zero, which of the
two differs, and the whole has two humps. Turning some channels of the keys and the same of the
queries leaves every product of the two as it is and the keys with one hump in half the range. That
helps where keys are rounded with a zero point; without one the range stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from .carriers import Place
from .channels import Channels, Region
from .graph import attribute

__all__ = ["signed_tensors", "turn_keys"]

_ABOVE_SOFTMAX = ("Add", "Div", "Mul")
"""What scales and masks the logits of an attention."""


@dataclass(frozen=True, slots=True)
class _Heads:
    """Queries or keys of one attention."""

    tensor: str
    """Before it is cut into heads, channels last."""
    cut: tuple[int, ...]
    """Heads and channels of each."""
    region: Region
    """Of `tensor`."""


def signed_tensors(model: onnx.ModelProto) -> dict[str, int]:
    """Name the tensors whose centers `turn_keys` needs, each with the axis of its channels."""
    found = (keys for _, keys in _attentions(Channels(model)))
    return {keys.tensor: keys.region.places[keys.tensor].axis for keys in found}


def turn_keys(model: onnx.ModelProto, centers: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Multiply key channels with a negative center, and their query channels, by minus one.

    An attention is left alone where queries or keys are read by something else too, as SAM's ViT
    reads queries to score positions.

    Args:
        model: FP32 graph after `passes.split_gemms`.
        centers: Middle of the range of each channel of `signed_tensors(model)`, (channels,).

    Returns:
        A graph that computes the same, to the bit.

    Source: PTQ4SAM (arXiv 2405.03144), section on bimodal integration.
    """
    channels = Channels(model)
    for queries, keys in list(_attentions(channels)):
        signs = np.where(centers[keys.tensor] < 0, np.float32(-1), np.float32(1))
        channels.rescale(queries.region, signs)
        channels.rescale(keys.region, signs)
    return channels.graph.model()


def _attentions(channels: Channels) -> Iterator[tuple[_Heads, _Heads]]:
    """Yield queries and keys of every attention in which nothing else reads them."""
    for node in channels.graph.nodes:
        if node.op_type != "Softmax":
            continue
        product = channels.makers.get(node.input[0])
        while product and product.op_type in _ABOVE_SOFTMAX:
            product = channels.makers.get(product.input[0])
        if product and product.op_type == "MatMul":
            queries = _heads(channels, product.input[0], [0, 2, 1, 3])
            keys = _heads(channels, product.input[1], [0, 2, 3, 1])
            if queries and keys and queries.cut == keys.cut:
                yield queries, keys


def _heads(channels: Channels, name: str, perm: list[int]) -> _Heads | None:
    """Follow an operand of a product up to where it is cut into heads; None where it is not."""
    node = channels.makers.get(name)
    if node and node.op_type == "Mul":
        scalars = [each for each in node.input if channels.is_scalar(each)]
        computed = [each for each in node.input if each not in scalars]
        node = channels.makers.get(computed[0]) if scalars and computed else None
    if node is None or node.op_type != "Transpose" or list(attribute(node, "perm", ())) != perm:
        return None
    cut = channels.makers.get(node.input[0])
    if cut is None or cut.op_type != "Reshape":
        return None
    tensor = cut.input[0]
    whole, parts = (channels.extents.get(each, ()) for each in (tensor, cut.output[0]))
    if len(parts) != 4 or not whole or whole[-1] != parts[2] * parts[3] or not whole[-1]:
        return None
    place = Place(len(whole) - 1, len(whole))
    region = channels.around(tensor, place, end=cut.name)
    if (
        region is None
        or region.sinks
        or any(each.op_type == "Relu" for each in region.carriers.values())
    ):
        return None
    return _Heads(tensor, parts[2:], region)
