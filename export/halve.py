"""An FP32 graph with FP16 arithmetic where that is safe; its inputs and outputs stay FP32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..calibration.graph import Graph

__all__ = ["element_types", "halve"]

_FLOAT: int = TensorProto.FLOAT
_HALF: int = TensorProto.FLOAT16
_HALF_MAX = float(np.finfo(np.float16).max)

_ISLANDS = frozenset({
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization",
    "Softmax", "LogSoftmax", "Div", "Reciprocal", "Sqrt", "Pow", "Exp", "Log", "ReduceMean",
    "ReduceSum", "ReduceSumSquare", "ReduceL2", "CumSum", "Resize", "Range", "Equal", "Less",
    "LessOrEqual", "Greater", "GreaterOrEqual",
})  # fmt: skip
"""Operators that sum, square, divide or place pixels: 11 bits of mantissa are too few for them."""
_CARRIERS = frozenset({
    "Transpose", "Reshape", "Slice", "Split", "Concat", "Pad", "Relu", "Abs", "Unsqueeze",
    "Squeeze", "Sub", "Neg", "Clip", "Sqrt", "Pow", "ReduceMean", "ReduceSum",
})  # fmt: skip
"""Operators that lead to a division, as its last weights do not."""
_TYPELESS = frozenset({"Shape", "Size", "Cast", "IsNaN", "IsInf"})
"""Operators that read any type; what they return does not follow from it."""


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes in FP16, for a compiler that keeps every type as it is written.

    FP32 stay: normalizations, softmax, reductions, Resize, and a division by something computed
    with all that leads to it from the last weights, so that EfficientViT's linear attention sums
    its tokens in FP32 (in FP16 it overflows). Constants beyond FP16, such as the minus infinity of
    an attention mask, become its largest number. Q/DQ take the type of what they stand between; the
    small numbers themselves stay.

    Args:
        model: Flat graph in FP32 whose nodes have names; it stays as it is.

    Raises:
        UsageError: A node has no name, shares one, or holds a graph of its own.
    """
    graph = Graph(model)
    types = element_types(model)
    caster = _Caster(graph, types, {value.name for value in model.graph.output})
    islands = _island_names(graph)
    for node in list(graph.nodes):
        if node.op_type in _TYPELESS or not _floats((*node.input, *node.output), types):
            caster.keep(node)
        else:
            caster.convert(node, _FLOAT if node.name in islands else _HALF)
    graph.nodes = caster.nodes
    halved = graph.model()
    del halved.graph.value_info[:]
    return halved


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the `TensorProto` data type of every tensor, without looking into the weights."""
    bare = helper.make_model(
        helper.make_graph(
            model.graph.node,
            model.graph.name,
            [
                *model.graph.input,
                *(
                    helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
                    for weight in model.graph.initializer
                ),
            ],
            [onnx.ValueInfoProto(name=value.name) for value in model.graph.output],
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    graph = onnx.shape_inference.infer_shapes(bare).graph
    return {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


class _Caster:
    """Rewrites nodes in order and casts what they read where it has the other type."""

    def __init__(self, graph: Graph, types: Mapping[str, int], outputs: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph = graph
        self._types = types
        self._outputs = outputs
        self._held: dict[str, dict[int, str]] = {
            name: {_FLOAT: name} for name in _floats(types, types)
        }
        """Names under which each FP32 tensor of the source is at hand, by type."""

    def keep(self, node: onnx.NodeProto) -> None:
        """Take over a node that reads what it is given."""
        for position, name in enumerate(node.input):
            if name in self._held:
                node.input[position] = next(iter(self._held[name].values()))
        self.nodes.append(node)

    def convert(self, node: onnx.NodeProto, kind: int) -> None:
        """Take over a node so that it reads and writes its numbers as `kind`."""
        for position, name in enumerate(node.input):
            if name in self._held:
                node.input[position] = self._at_hand(name, kind)
        self.nodes.append(node)
        if kind == _FLOAT:
            return
        for position, name in enumerate(node.output):
            if name not in self._held:
                continue
            if name in self._outputs:
                node.output[position] = self._graph.fresh(f"{name}_fp16")
                self._cast(node.output[position], name, _FLOAT)
                self._held[name] = {_HALF: node.output[position], _FLOAT: name}
            else:
                self._held[name] = {_HALF: name}

    def _at_hand(self, name: str, kind: int) -> str:
        held = self._held[name]
        if kind not in held:
            if name in self._graph.constants:
                held[kind] = self._graph.add(f"{name}_fp16", _halved(self._graph.array(name)))
            else:
                held[kind] = self._graph.fresh(f"{name}_{'fp16' if kind == _HALF else 'fp32'}")
                self._cast(next(iter(held.values())), held[kind], kind)
        return held[kind]

    def _cast(self, source: str, target: str, kind: int) -> None:
        self.nodes.append(
            helper.make_node("Cast", [source], [target], name=f"cast_to_{target}", to=kind)
        )


def _floats(names: Iterable[str], types: Mapping[str, int]) -> list[str]:
    return [name for name in names if types.get(name) == _FLOAT]


def _halved(array: np.ndarray) -> np.ndarray:
    return np.clip(array, -_HALF_MAX, _HALF_MAX).astype(np.float16)


def _island_names(graph: Graph) -> set[str]:
    """Return the names of nodes that stay FP32."""
    makers = graph.makers()
    weights = set(graph.constants) | {
        node.output[0] for node in graph.nodes if graph.constants.keys() >= set(node.input)
    }
    islands = {node.name for node in graph.nodes if node.op_type in _ISLANDS}
    waiting = [node for node in graph.nodes if _divides_by_computed(node, graph)]
    seen: set[str] = set()
    while waiting:
        for name in waiting.pop().input:
            maker = makers.get(name)
            if maker and maker.name not in seen and _leads_to_division(maker, weights):
                seen.add(maker.name)
                waiting.append(maker)
    return islands | seen


def _divides_by_computed(node: onnx.NodeProto, graph: Graph) -> bool:
    if node.op_type == "Div":
        return node.input[1] not in graph.constants
    return node.op_type == "Reciprocal"


def _leads_to_division(node: onnx.NodeProto, weights: set[str]) -> bool:
    """Say whether a node belongs to the division that reads what it returns."""
    has_weights = not weights.isdisjoint(node.input)
    if node.op_type == "MatMul":
        return not has_weights
    return node.op_type in _CARRIERS or (node.op_type in {"Add", "Mul"} and has_weights)
