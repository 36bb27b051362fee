"""Q/DQ graphs, whoever made them: what they round, and how they run on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.machine import sums_overflow
from .graph import Graph, attribute
from .plan import WEIGHTED_OPS

__all__ = ["pairs", "restore", "rounded_nodes", "runnable"]


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


def restore(
    model: onnx.ModelProto, fp32: onnx.ModelProto, names: Collection[str]
) -> onnx.ModelProto:
    """Return a graph in which some nodes read what they read before anything was rounded.

    Args:
        model: With Q/DQ.
        fp32: What it was made of, with the same names of nodes.
        names: Of nodes.
    """
    graph, source = Graph(model), Graph(fp32)
    makers = graph.makers()
    originals = {node.name: node for node in source.nodes}
    weights: dict[str, str] = {}
    for node in graph.nodes:
        for position, name in enumerate(node.input if node.name in names else ()):
            real = makers.get(name)
            if real is None or real.op_type != "DequantizeLinear":
                continue
            if rounded := makers.get(real.input[0]):
                node.input[position] = rounded.input[0]
            else:
                weight = originals[node.name].input[position]
                if weight not in weights:  # Its name may be that of the small numbers now.
                    tensor = copy.copy(source.constants[weight])
                    tensor.name = weights[weight] = graph.fresh(weight)
                    graph.constants[tensor.name] = tensor
                node.input[position] = weights[weight]
    return graph.model()


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the same values that ONNX Runtime runs on a CPU.

    It has both operators of a Q/DQ pair for FP8, but takes them for INT8 when it moves and fuses
    them, and refuses what it made of them (1.31). So each is written as two other operators, and
    weights are stored as the real numbers that they stand for. Likewise INT8 for TensorRT where
    this processor's sums overflow, which a GPU's don't.

    Args:
        model: INT8, which mostly stays as it is, or FP8, not yet through `export.halve`. Weights
            may have one scale for each channel.
    """
    is_fp8 = any(each.data_type == TensorProto.FLOAT8E4M3FN for each in model.graph.initializer)
    if not is_fp8 and not (sums_overflow() and _is_symmetric(model)):
        return model
    graph = Graph(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear" and is_fp8:
            nodes += _divide_and_cast(graph, node)
        elif node.op_type != "DequantizeLinear":
            nodes.append(node)
        elif node.input[0] in graph.constants:
            name = node.output[0]
            graph.constants[name] = numpy_helper.from_array(_weight(graph, node), name)
        else:
            nodes += _cast_and_multiply(graph, node)
    graph.nodes = nodes
    return graph.model()


def _is_symmetric(model: onnx.ModelProto) -> bool:
    """Say whether all that is rounded becomes int8, as TensorRT wants it and no CPU is given it."""
    rounded = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    zeros = {node.input[2] for node in rounded if len(node.input) > 2}
    kinds = {each.data_type for each in model.graph.initializer if each.name in zeros}
    return kinds == {TensorProto.INT8} and all(len(node.input) > 2 for node in rounded)


def _divide_and_cast(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    ratio = graph.fresh(f"{node.output[0]}_ratio")
    return [
        helper.make_node("Div", node.input[:2], [ratio], ratio),
        helper.make_node("Cast", [ratio], node.output, node.name, to=TensorProto.FLOAT8E4M3FN),
    ]


def _cast_and_multiply(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    number, scale = node.input[:2]
    ratio = graph.fresh(f"{node.output[0]}_ratio")
    return [
        helper.make_node("Cast", [number], [ratio], ratio, to=TensorProto.FLOAT),
        helper.make_node("Mul", [ratio, scale], node.output, node.name),
    ]


def _weight(graph: Graph, node: onnx.NodeProto) -> np.ndarray:
    """Return the real numbers that a DequantizeLinear makes of a constant, float32."""
    numbers, scale = (graph.array(name).astype(np.float32) for name in node.input[:2])
    if scale.ndim == 1:
        extents = [1] * numbers.ndim
        extents[attribute(node, "axis", 1)] = -1
        scale = scale.reshape(extents)
    return numbers * scale
