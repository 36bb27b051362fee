"""Q/DQ graphs, whoever made them: what they round, and how they run on a CPU."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .fp8 import simulate_fp8
from .graph import Graph, attribute
from .plan import WEIGHTED_OPS

__all__ = ["pairs", "rounded_nodes", "runnable"]


def pairs(model: onnx.ModelProto) -> int:
    """Count the tensors that are rounded while a graph runs; stored weights are not among them."""
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)


def rounded_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """Name the weighted nodes both of whose factors are rounded, so that they run in few bits."""
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return frozenset(
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED_OPS and rounded.issuperset(node.input[:2])
    )


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the same values that ONNX Runtime runs on a CPU.

    Args:
        model: INT8, which stays as it is, or FP8; then weights may have one scale for each channel.
    """
    graph = Graph(model)
    if all(tensor.data_type != TensorProto.FLOAT8E4M3FN for tensor in graph.constants.values()):
        return model
    nodes = []
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in graph.constants:
            name = node.output[0]
            graph.constants[name] = numpy_helper.from_array(_weight(graph, node), name)
        else:
            nodes.append(node)
    graph.nodes = nodes
    return simulate_fp8(graph.model())


def _weight(graph: Graph, node: onnx.NodeProto) -> np.ndarray:
    """Return the real numbers that a DequantizeLinear makes of a constant, float32."""
    numbers, scale = (graph.array(name).astype(np.float32) for name in node.input[:2])
    if scale.ndim == 1:
        extents = [1] * numbers.ndim
        extents[attribute(node, "axis", 1)] = -1
        scale = scale.reshape(extents)
    return numbers * scale
