"""A graph in FP16 as one in FP32 that rounds wherever the other does, for a CPU without FP16."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..calibration.graph import Graph, attribute
from .halve import element_types

__all__ = ["rounded"]

_FLOAT: int = TensorProto.FLOAT
_HALF: int = TensorProto.FLOAT16
_MOVERS = frozenset({
    "Abs", "Concat", "Expand", "Flatten", "Gather", "Identity", "Max", "MaxPool", "Min", "Neg",
    "Relu", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators whose results are numbers that they read, or those with another sign."""


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose values are those of a device that has FP16.

    ONNX Runtime has few kernels for FP16 on a CPU: it casts what such a graph computes to FP32 and
    drops the casts in between (1.31), so that a product of 8e7 passes that overflows on a GPU.
    Here every result that is FP16 in `model` is cast there and back, which stays as it is written.
    Products sum in FP32, as tensor cores do.

    Args:
        model: From `halve.halve`, without small numbers; it stays as it is.

    Returns:
        A graph with the same inputs and outputs, in FP32 but for those casts.
    """
    graph, types = Graph(model), element_types(model)
    for name, constant in graph.constants.items():
        if constant.data_type == _HALF:
            wide = graph.array(name).astype(np.float32)
            graph.constants[name] = numpy_helper.from_array(wide, name)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        halves = [name for name in node.output if types.get(name) == _HALF]
        if _is_cast_between(node, types):
            nodes += _there_and_back(graph, node.input[0], node.output[0])
        elif node.op_type == "Cast" and types.get(node.input[0]) == _HALF and not halves:
            nodes.append(node)  # From a number that is rounded already.
        elif node.op_type in _MOVERS or not halves:
            nodes.append(node)
        else:
            nodes += _with_rounded_results(graph, node, halves)
    graph.nodes = nodes
    return graph.model()


def _is_cast_between(node: onnx.NodeProto, types: dict[str, int]) -> bool:
    """Say whether a node casts FP32 to FP16."""
    return (
        node.op_type == "Cast"
        and attribute(node, "to") == _HALF
        and types.get(node.input[0]) == _FLOAT
    )


def _with_rounded_results(
    graph: Graph, node: onnx.NodeProto, halves: list[str]
) -> list[onnx.NodeProto]:
    """Let a node compute in FP32 and round what it returns."""
    for held in node.attribute:
        if held.name == "to" and held.i == _HALF:
            held.i = _FLOAT
        elif held.HasField("t") and held.t.data_type == _HALF:
            wide = numpy_helper.to_array(held.t).astype(np.float32)
            held.t.CopyFrom(numpy_helper.from_array(wide))
    nodes = [node]
    for position, name in enumerate(node.output):
        if name in halves:
            node.output[position] = graph.fresh(f"{name}_exact")
            nodes += _there_and_back(graph, node.output[position], name)
    return nodes


def _there_and_back(graph: Graph, source: str, target: str) -> list[onnx.NodeProto]:
    half = graph.fresh(f"{target}_half")
    return [
        helper.make_node("Cast", [source], [half], f"round_{half}", to=_HALF),
        helper.make_node("Cast", [half], [target], f"widen_{half}", to=_FLOAT),
    ]
