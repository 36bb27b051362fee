"""Bias correction: what rounding adds to a node's output on average is taken off its bias.

Each node is watched alone, with inputs as FP32 has them. So its error stays what it is whatever the
other nodes compute in, and a plan may lift nodes to FP32 without taking errors again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..runtime.errors import UsageError
from .graph import Graph
from .plan import NodePlan
from .qdq import runnable
from .session import open_model

__all__ = ["correct_biases", "output_errors"]

_ROUNDING = ("DynamicQuantizeLinear", "QuantizeLinear")


def output_errors(
    model: onnx.ModelProto,
    lowered: onnx.ModelProto,
    plan: Mapping[str, NodePlan],
    feeds: Iterable[Mapping[str, np.ndarray]],
    *,
    threads: int = 1,
) -> dict[str, np.ndarray]:
    """Measure what rounding a node's input and weights adds to its output on average.

    Args:
        model: FP32 graph that was lowered.
        lowered: The same graph with INT8 nodes, from `quantize_static`, `quantize_dynamic`
            or `lower_symmetric`.
        plan: The plan it was lowered by.
        feeds: Real inputs by name, one run after the other.
        threads: Threads of one operator.

    Returns:
        Node name -> mean error of each output channel, float64 (channels,), of each node that is
        not "fp32".

    Raises:
        UsageError: There is no feed.
        EngineError: ONNX Runtime refuses the graph or a feed.
    """
    twins = _Twins(model, lowered)
    names = {name: twins.error(name) for name, each in plan.items() if each.precision != "fp32"}
    engine = open_model(runnable(twins.model(names.values())), threads=threads)
    sums, runs = dict.fromkeys(names, np.float64(0)), 0
    for feed in feeds:
        found = engine.run(feed)
        sums = {node: sums[node] + found[tensor] for node, tensor in names.items()}
        runs += 1
    if not runs:
        raise UsageError("errors must be taken from real inputs; got none; give frames and phrases")
    return {node: np.asarray(total / runs) for node, total in sums.items()}


def correct_biases(
    model: onnx.ModelProto, plan: Mapping[str, NodePlan], errors: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    """Take errors off the biases of the nodes that a plan quantizes; lower the result anew.

    A product that no constant is added to has no bias and stays as it is.

    Args:
        model: FP32 graph that `errors` were taken of.
        plan: Node name -> precision; nodes that are "fp32" stay as they are.
        errors: From `output_errors`.

    Returns:
        A graph that is right when lowered by `plan`, and wrong by `errors` when run in FP32.

    Source: Data-free quantization (arXiv 1906.04721), section 4.2, with measured errors.
    """
    graph = Graph(model)
    readers = graph.readers()
    for node in graph.nodes:
        if node.name not in errors or plan[node.name].precision == "fp32":
            continue
        error = errors[node.name].astype(np.float32)
        if node.op_type == "Conv":
            _shift(graph, node, 2, error)
            continue
        for reader in readers.get(node.output[0], []):
            constants = [each for each, name in enumerate(reader.input) if name in graph.constants]
            if reader.op_type == "Add" and constants:
                _shift(graph, reader, constants[0], error)
    return graph.model()


def _shift(graph: Graph, node: onnx.NodeProto, position: int, error: np.ndarray) -> None:
    """Subtract an error from a node's bias, which it may lack."""
    given = node.input[position] if position < len(node.input) else ""
    bias = graph.array(given) if given else np.zeros_like(error)
    corrected = graph.add(f"{given or node.name}_corrected", bias - error)
    node.input[:] = [*node.input[:position], corrected, *node.input[position + 1 :]]


class _Twins:
    """An FP32 graph with a rounded twin beside some nodes, which reads what the node reads."""

    def __init__(self, model: onnx.ModelProto, lowered: onnx.ModelProto) -> None:
        self._graph = Graph(model)
        self._nodes = {node.name: node for node in self._graph.nodes}
        self._lowered = Graph(lowered)
        self._makers = self._lowered.makers()

    def error(self, name: str) -> str:
        """Add the twin of a node and return the tensor of its mean error, (channels,)."""
        node = self._nodes[name]
        if node.op_type == "Conv":
            shape, others = [0, 0, -1], [0, 2]
        else:
            shape, others = [-1, self._graph.constants[node.input[1]].dims[1]], [0]
        error = self._add("Sub", [self._twin(node), node.output[0]])
        rows = self._add("Reshape", [error, self._graph.add("shape", np.array(shape))])
        axes = self._graph.add("axes", np.array(others))
        return self._add("ReduceMean", [rows, axes], keepdims=0)

    def model(self, outputs: Iterable[str]) -> onnx.ModelProto:
        """Return the graph with these outputs."""
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        return self._graph.model(values)

    def _twin(self, node: onnx.NodeProto) -> str:
        """Copy what makes a node's output in the lowered graph and return that output."""
        held = {"": ""}
        for each in self._cone(node):
            copied = onnx.NodeProto()
            copied.CopyFrom(each)
            for position, name in enumerate(each.input):
                if name in self._lowered.constants and name not in held:
                    held[name] = self._graph.add(name, self._lowered.array(name))
                copied.input[position] = held.get(name, node.input[0])
            copied.output[:] = [self._graph.fresh(f"{name}_twin") for name in each.output]
            copied.name = copied.output[0]
            held.update(zip(each.output, copied.output, strict=True))
            self._graph.nodes.append(copied)
        return held[node.output[0]]

    def _cone(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the lowered nodes between a node's input and its output, in order."""
        wanted, found = {node.output[0]}, []
        for each in reversed(self._lowered.nodes):
            if wanted.isdisjoint(each.output):
                continue
            found.append(each)
            maker = self._makers.get(each.input[0])
            is_entry = each.op_type in _ROUNDING and (maker is None or maker.name != node.name)
            wanted.update(each.input[is_entry:])
        return found[::-1]

    def _add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = self._graph.fresh(f"{inputs[0]}_{operator}")
        self._graph.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name
