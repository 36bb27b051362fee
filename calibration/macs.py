"""Multiply-adds of a graph's products and convolutions, counted from the shapes of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing

import numpy as np
import onnx
from onnx import TensorProto, helper

from .extents import extents_of
from .graph import Graph, attribute
from .plan import WEIGHTED_OPS
from .session import open_model

__all__ = ["multiply_adds", "multiply_adds_of_shapes"]


def multiply_adds(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Count the multiply-adds of one run.

    Args:
        model: Float graph of any size.
        feed: Real inputs by name.

    Returns:
        Name of each node whose operator is one of `plan.WEIGHTED_OPS` -> multiply-adds.

    Raises:
        EngineError: ONNX Runtime refuses the graph or the feed.
    """
    graph = Graph(model)
    known = _constant_shapes(graph)
    computed = dict.fromkeys(name for node in _weighted(graph) for name in _counted(node))
    shapes = known | _shapes(graph, [name for name in computed if name not in known], feed)
    return _counts(_weighted(graph), shapes)


def multiply_adds_of_shapes(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Count the multiply-adds of one run without it, as far as shapes follow from the inputs'.

    Args:
        model: Graph of up to 2 GiB without what lies elsewhere, in floats or with Q/DQ.
        shapes: Name of each input -> its extents.

    Returns:
        As `multiply_adds`, without nodes whose shapes do not follow.
    """
    graph = Graph(model)
    # No memory is behind them, as only their shapes are read.
    feed = {name: np.broadcast_to(np.float32(), tuple(shape)) for name, shape in shapes.items()}
    known = _constant_shapes(graph) | extents_of(model, feed)
    found = [node for node in _weighted(graph) if known.keys() >= set(_counted(node))]
    return _counts(found, known)


def _weighted(graph: Graph) -> list[onnx.NodeProto]:
    return [node for node in graph.nodes if node.op_type in WEIGHTED_OPS]


def _counted(node: onnx.NodeProto) -> tuple[str, str, str]:
    """Return the tensors whose shapes say how much a node computes."""
    return (node.input[0], node.input[1], node.output[0])


def _constant_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.dims) for name, tensor in graph.constants.items()}


def _counts(
    nodes: Iterable[onnx.NodeProto], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    return {node.name: _count(node, [shapes[name] for name in _counted(node)]) for node in nodes}


def _count(node: onnx.NodeProto, shapes: Sequence[tuple[int, ...]]) -> int:
    rows, weight, out = shapes
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(rows) * math.prod(weight[1:])
    is_turned = node.op_type == "Gemm" and attribute(node, "transA", 0)
    return math.prod(out) * rows[-2 if is_turned else -1]


def _shapes(
    graph: Graph, names: Iterable[str], feed: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Run the graph for the shapes of tensors alone; not all of them can be inferred."""
    nodes = {
        name: helper.make_node("Shape", [name], [graph.fresh(f"{name}_shape")], f"{name}_shape")
        for name in names
    }
    # Backwards, as ONNX Runtime begins with the last leaf: then no tensor is held for its shape.
    graph.nodes += reversed(nodes.values())
    extents = {name: node.output[0] for name, node in nodes.items()}
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in extents.values()
    ]
    with closing(open_model(graph.model(outputs), threads=1)) as engine:
        found = engine.run(feed)
    return {name: tuple(found[shape].tolist()) for name, shape in extents.items()}
