"""Which weighted nodes of a graph become INT8, which stay FP32, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

from ..runtime.errors import UsageError
from .graph import Graph, attribute

__all__ = [
    "FLOATS",
    "WEIGHTED_OPS",
    "NodePlan",
    "blocks",
    "name_int8",
    "obstacle",
    "only",
    "plan_nodes",
]

WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators a plan speaks of; every other one computes in FP32."""
FLOATS = ("fp32", "fp16")
"""Precisions that quantize nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What one node computes in."""

    precision: str
    """"int8" or "fp32"; once it is settled how a target lowers it, one of
    `plan_file.PRECISIONS`."""
    reason: str
    """Why it is no INT8; empty for INT8."""


def plan_nodes(
    model: onnx.ModelProto, *, keep: Mapping[str, str] | None = None
) -> dict[str, NodePlan]:
    """Decide the precision of every node whose operator is one of `WEIGHTED_OPS`.

    Args:
        model: FP32 graph after `passes.split_gemms`.
        keep: Node names and operators that stay FP32, each with the reason.

    Returns:
        Node name -> plan, in the graph's order.

    Raises:
        UsageError: `keep` names what cannot be planned, or nodes lack names of their own.
    """
    keep = keep or {}
    graph = Graph(model)
    nodes = {node.name: node for node in graph.nodes if node.op_type in WEIGHTED_OPS}
    for name in keep:
        if name not in nodes and name not in WEIGHTED_OPS:
            raise UsageError(
                f"what stays FP32 must be an operator of {', '.join(WEIGHTED_OPS)} or the name of "
                f"such a node; got {name!r}; the graph's nodes are {', '.join(nodes) or 'none'}"
            )
    leading = _leading_to(graph, nodes)
    plans = {}
    for name, node in nodes.items():
        reason = (
            keep.get(name)
            or keep.get(node.op_type)
            or obstacle(graph, node)
            or _doubt(graph, node, leading)
        )
        plans[name] = NodePlan(precision="fp32" if reason else "int8", reason=reason)
    return plans


def name_int8(plan: Mapping[str, NodePlan], precision: str) -> dict[str, NodePlan]:
    """Return a plan that says of its INT8 nodes how they are lowered, such as "int8-static"."""
    return {
        name: replace(each, precision=precision) if each.precision == "int8" else each
        for name, each in plan.items()
    }


def only(plan: Mapping[str, NodePlan], precision: str) -> dict[str, NodePlan]:
    """Return what a pass that knows "int8" and "fp32" shall do: INT8 where a plan says `precision`.

    Each lowering writes the nodes of its own precision and leaves the rest to the next one.
    """
    return {
        name: replace(each, precision="int8" if each.precision == precision else "fp32")
        for name, each in plan.items()
    }


def blocks(model: onnx.ModelProto) -> tuple[tuple[onnx.NodeProto, ...], ...]:
    """Return a graph's nodes by block of the network, in order.

    A block ends with the sum of two computed tensors: its residual. What reads one rounded tensor,
    such as the queries, keys and values of an attention, is mostly of one block, so its nodes are
    quantized together or not at all.
    """
    graph = Graph(model)
    parts: list[list[onnx.NodeProto]] = [[]]
    for node in graph.nodes:
        parts[-1].append(node)
        if node.op_type == "Add" and not graph.constants.keys() & set(node.input):
            parts.append([])
    return tuple(tuple(part) for part in parts if part)


def obstacle(graph: Graph, node: onnx.NodeProto) -> str:
    """Say why one of `WEIGHTED_OPS` cannot be INT8; empty when it can."""
    if any(name and name not in graph.constants for name in node.input[1:]):
        return "it has no constant weights"
    if node.op_type == "ConvTranspose":
        return "ONNX Runtime has no integer kernel for it"
    if node.op_type == "Gemm":
        return "it is more than a product and a sum"
    if node.op_type == "MatMul" and len(graph.constants[node.input[1]].dims) != 2:
        return "its weight is no matrix"
    return ""


def _doubt(graph: Graph, node: onnx.NodeProto, leading: set[str]) -> str:
    """Say why a node that can be INT8 better is not; empty when it should be."""
    if attribute(node, "group", 1) != 1:
        # EfficientViT-SAM fell from 78 to 39 mIoU with its MBConv blocks in INT8.
        return "grouped: one range for channels that differ widely"
    return _edge(graph, node, leading) if node.op_type == "Conv" else ""


def _edge(graph: Graph, conv: onnx.NodeProto, leading: set[str]) -> str:
    """Say why a convolution at the graph's edge is better left alone; empty inside."""
    if conv.input[0] in graph.inputs:
        # Kept FP32, the stem made small encoders 5 to 8 % faster than all-INT8 ones.
        return "reads the input: few channels, and FP32 needs no conversion"
    if conv.output[0] not in leading:
        return "no weighted node follows, so a rounded result would gain nothing"
    return ""


def _leading_to(graph: Graph, nodes: Mapping[str, onnx.NodeProto]) -> set[str]:
    """Name the tensors on whose way to an output lies one of `nodes`."""
    leading: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in nodes or leading.intersection(node.output):
            leading.update(node.input)
    return leading
