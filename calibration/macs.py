"""Multiply-adds of a graph's products and convolutions, counted from the shapes of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing

import numpy as np
import onnx
from onnx import TensorProto, helper

from .graph import Graph, attribute
from .plan import WEIGHTED_OPS
from .session import open_model

__all__ = ["multiply_adds"]


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
    weighted = [node for node in graph.nodes if node.op_type in WEIGHTED_OPS]
    wanted = {node.name: (*node.input[:2], node.output[0]) for node in weighted}
    known = {name: tuple(tensor.dims) for name, tensor in graph.constants.items()}
    computed = dict.fromkeys(name for names in wanted.values() for name in names)
    shapes = known | _shapes(graph, [name for name in computed if name not in known], feed)
    return {
        node.name: _count(node, [shapes[name] for name in wanted[node.name]]) for node in weighted
    }


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
