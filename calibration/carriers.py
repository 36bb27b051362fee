"""Nodes that hand channels on from tensor to tensor, and where the channels lie on each side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from .graph import Graph, attribute

__all__ = ["Place", "carried"]

_IN_PLACE = ("Add", "Concat", "MatMul", "Pad", "Relu")


class Place(NamedTuple):
    """Where a tensor has its channels."""

    axis: int
    """The axis, counted from 0."""
    rank: int
    """How many axes there are."""


def carried(
    graph: Graph,
    extents: Mapping[str, Sequence[int]],
    node: onnx.NodeProto,
    name: str,
    place: Place,
) -> dict[str, Place]:
    """Follow channels through a node to all that it reads and makes.

    What passes is positively homogeneous: times two in, times two out, channel by channel.

    Args:
        graph: Has the node's constants.
        extents: Tensor -> extents, as `Graph.extents` returns them.
        node: Any.
        name: A tensor that it reads or makes.
        place: Where that has its channels.

    Returns:
        Tensor -> place, `name` among them; empty where the node does something else.
    """
    sources = _carried_inputs(graph, node)
    is_forward = name in sources
    if not sources or not (is_forward or name == node.output[0]):
        return {}
    target = node.output[0] if is_forward else sources[0]
    other = _across(graph, extents, node, place, target, is_forward)
    if other is None:
        return {}
    source, result = (place, other) if is_forward else (other, place)
    return dict.fromkeys(sources, source) | {node.output[0]: result}


def _carried_inputs(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """Name the inputs whose channels a node hands on; none where a constant is among them."""
    if node.op_type in ("Add", "Concat"):
        names = list(node.input)
    elif node.op_type == "MatMul":
        names = [node.input[1]] if _is_matrix(graph, node.input[0]) else []
    else:
        names = [node.input[0]] if node.input else []
    return [] if graph.constants.keys() & set(names) else names


def _is_matrix(graph: Graph, name: str) -> bool:
    return name in graph.constants and len(graph.constants[name].dims) == 2


def _across(
    graph: Graph,
    extents: Mapping[str, Sequence[int]],
    node: onnx.NodeProto,
    place: Place,
    target: str,
    is_forward: bool,
) -> Place | None:
    """Return the place on a node's other side, in `target`; None where channels are mixed."""
    axis, rank = place
    if node.op_type in _IN_PLACE:
        return place if _leaves_axis(graph, extents, node, place) else None
    if node.op_type == "Transpose":
        perm = list(attribute(node, "perm", range(rank)[::-1]))
        return Place(perm.index(axis) if is_forward else perm[axis], rank)
    if node.op_type == "Reshape":
        known = [extents.get(name, (0,)) for name in (node.input[0], node.output[0])]
        keeps_last = known[0][-1] == known[1][-1] != 0 and axis == rank - 1
        ranks = len(extents.get(target, ()))
        return Place(ranks - 1, ranks) if keeps_last else None
    if node.op_type in ("ReduceSum", "Unsqueeze") and _is_first_axis(graph, node):
        step = 1 if is_forward == (node.op_type == "Unsqueeze") else -1
        return Place(axis + step, rank + step) if axis + step >= 0 else None
    return None


def _leaves_axis(
    graph: Graph, extents: Mapping[str, Sequence[int]], node: onnx.NodeProto, place: Place
) -> bool:
    """Say whether a node that keeps all axes leaves the channels' axis alone."""
    axis, rank = place
    if node.op_type == "Add":
        shapes = [extents.get(name, ()) for name in node.input]
        return all(len(shape) == rank for shape in shapes) and len({s[axis] for s in shapes}) == 1
    if node.op_type == "Concat":
        return attribute(node, "axis") % rank != axis
    if node.op_type == "MatMul":
        return axis < rank - 2
    if node.op_type == "Pad":
        pads, *rest = (name for name in node.input[1:] if name)
        return (
            not rest
            and attribute(node, "mode", b"constant") == b"constant"
            and pads in graph.constants
            and not graph.array(pads).reshape(2, rank)[:, axis].any()
        )
    return True


def _is_first_axis(graph: Graph, node: onnx.NodeProto) -> bool:
    axes = node.input[1] if len(node.input) > 1 else ""
    return (
        axes in graph.constants
        and np.array_equal(graph.array(axes).ravel(), [0])
        and not (node.op_type == "ReduceSum" and attribute(node, "keepdims", 1))
    )
