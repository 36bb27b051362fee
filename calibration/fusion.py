"""Exact rewrites for OpenVINO on the CPU: what stands between products becomes part of them.

What was tried and is not here, on BEiT-3-L's layers of 197 + 16 tokens and one thread of a Zen 5:
queries, keys and values as one product and a Split (0 to 2 % slower in ONNX Runtime, none quicker
in OpenVINO), and `com.microsoft.MultiHeadAttention` (1 % quicker in ONNX Runtime's dynamic INT8).
Both engines recognize GELU and LayerNorm, and OpenVINO the attention, by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from .graph import Graph, attribute

__all__ = ["fold_norms", "fold_scales", "turn_keys", "weigh_maps"]

_CARRIERS = ("Concat", "Reshape", "Transpose")
_ROWS_TO_COLUMNS = (0, 2, 3, 1)
"""(batch, keys, heads, channels) to (batch, heads, channels, keys)."""
_HEADS_FIRST = (0, 2, 1, 3)
_TURNED = (0, 1, 3, 2)


def fold_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Move the scale and bias of LayerNorms into the products that alone read them.

    OpenVINO has a kernel of its own for both, between the normalization and the rounding for INT8:
    without them BEiT-3-L's layers in INT8 took 2 to 4 % less. What the products read then has one
    variance in all channels, which INT8 wants too, but what `smoothing.smooth` did to LayerNorms is
    undone: take one of the two.

    Args:
        model: Float graph after `passes.split_gemms`.

    Returns:
        A graph that computes the same but for rounding in FP32.
    """
    linears = _Linears(model)
    graph = linears.graph
    for norm in graph.nodes:
        found = [linears.at(node) for node in linears.readers.get(norm.output[0], [])]
        is_norm = norm.op_type == "LayerNormalization" and norm.output[0] in linears.makers
        if is_norm and found and all(each and each.total for each in found):
            scale = graph.array(norm.input[1]).astype(np.float64)
            shift = graph.array(norm.input[2]) if len(norm.input) > 2 else np.zeros_like(scale)
            for linear in filter(None, found):
                matrix, bias = linears.arrays(linear)
                linears.rewrite(linear, scale[:, None] * matrix, bias + shift @ matrix)
            norm.input[1] = graph.add(f"{norm.name}_ones", np.ones(len(scale), np.float32))
            del norm.input[2:]
    return graph.model()


def fold_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """Move the scale of attention queries into the products that make them.

    Only then can `attention.round_attention` round queries where they arise.

    Args:
        model: Float graph after `passes.split_gemms`.

    Returns:
        A graph that computes the same but for rounding in FP32; the very same where the scale is a
        power of two, as with heads of 64 channels.
    """
    linears = _Linears(model)
    graph = linears.graph
    unscaled: dict[str, str] = {}
    for node in graph.nodes:
        is_scaled = node.op_type == "Mul" and node.output[0] in linears.makers
        if is_scaled and node.input[1] in graph.constants:
            scale = graph.array(node.input[1])
            sources = linears.behind(node.input[0]) if scale.ndim == 0 else []
            for linear in sources:
                matrix, bias = linears.arrays(linear)
                linears.rewrite(linear, matrix * scale, bias * scale)
            if sources:
                unscaled[node.output[0]] = node.input[0]
    for node in graph.nodes:
        node.input[:] = [unscaled.get(name, name) for name in node.input]
    return graph.model()


def turn_keys(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write the transposition of attention keys as two, heads first.

    The second becomes part of the product that reads it, and the first only moves rows: BEiT-3-L's
    layers in INT8 took 2 to 4 % less. As one, OpenVINO gathers every number by itself.

    Args:
        model: Float graph.

    Returns:
        A graph that computes the same, to the bit.
    """
    graph = Graph(model)
    read_turned = {node.input[1] for node in graph.nodes if node.op_type == "MatMul"}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        is_key = node.op_type == "Transpose" and node.output[0] in read_turned
        if is_key and tuple(attribute(node, "perm", ())) == _ROWS_TO_COLUMNS:
            heads = graph.fresh(f"{node.output[0]}_heads")
            nodes += [
                helper.make_node("Transpose", node.input, [heads], heads, perm=_HEADS_FIRST),
                helper.make_node("Transpose", [heads], node.output, node.name, perm=_TURNED),
            ]
        else:
            nodes.append(node)
    graph.nodes = nodes
    return graph.model()


def weigh_maps(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write the product of one row of weights with a feature map as a weighted sum of its channels.

    OpenVINO keeps maps channels last, where that sum reads them as they lie. For a product it moved
    every number by itself: SAM's mask decoder in INT8 took 33 instead of 21 ms, and 26 as a product
    whose rows are the map's cells.

    Args:
        model: Float graph.

    Returns:
        A graph that computes the same but for rounding in FP32.
    """
    graph = Graph(model)
    extents = graph.extents()
    flat = {node.output[0]: node.input[0] for node in graph.nodes if node.op_type == "Reshape"}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        features = flat.get(node.input[1]) if node.op_type == "MatMul" else None
        if features and _is_row_by_map(*(extents.get(n, ()) for n in (*node.input, features))):
            nodes += _weighted_sum(graph, node, features, extents[features])
        else:
            nodes.append(node)
    graph.nodes = nodes
    return graph.model()


def _is_row_by_map(row: Sequence[int], cells: Sequence[int], features: Sequence[int]) -> bool:
    """Whether extents are those of weights (B, 1, C) and a map (B, C, H, W) as (B, C, H * W)."""
    if len(features) != 4 or 0 in features[1:]:
        return False
    _, channels, height, width = features
    return row[1:] == (1, channels) and cells[1:] == (channels, height * width)


def _weighted_sum(
    graph: Graph, product: onnx.NodeProto, features: str, extents: Sequence[int]
) -> list[onnx.NodeProto]:
    """Return the nodes that stand for the product of a row of weights with a map."""
    _, channels, height, width = extents
    weights, [out] = product.input[0], product.output
    column, weighted, total = (
        graph.fresh(f"{out}_{part}") for part in ("column", "weighted", "total")
    )
    to_column = graph.add(f"{out}_column_shape", np.array([0, channels, 1, 1]))
    over_channels = graph.add(f"{out}_axes", np.array([1]))
    to_cells = graph.add(f"{out}_shape", np.array([0, 1, height * width]))
    return [
        helper.make_node("Reshape", [weights, to_column], [column], column),
        helper.make_node("Mul", [features, column], [weighted], weighted),
        helper.make_node("ReduceSum", [weighted, over_channels], [total], product.name),
        helper.make_node("Reshape", [total, to_cells], [out], f"{product.name}_flat"),
    ]


@dataclass(frozen=True, slots=True)
class _Linear:
    """A product with a constant matrix on the right."""

    product: onnx.NodeProto
    total: onnx.NodeProto | None
    """The sum with a constant vector that alone reads it, if there is one."""
    bias: int
    """Which input of the sum the vector is."""


class _Linears:
    """The products of a graph, found from what reads them or from what they read."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = Graph(model)
        self.readers = self.graph.readers()
        returned = {value.name for value in model.graph.output}
        self.makers = {
            name: node for node in self.graph.nodes for name in node.output if name not in returned
        }

    def at(self, node: onnx.NodeProto) -> _Linear | None:
        """Return the product that `node` is."""
        is_product = node.op_type == "MatMul" and self._rank(node.input[1]) == 2
        if not is_product:
            return None
        after = self.readers.get(node.output[0], [])
        if [each.op_type for each in after] == ["Add"] and node.output[0] in self.makers:
            bias = 1 if after[0].input[0] == node.output[0] else 0
            if self._rank(after[0].input[bias]) == 1:
                return _Linear(node, after[0], bias)
        return _Linear(node, None, 0)

    def behind(self, name: str) -> list[_Linear]:
        """Return the products that make a tensor for one reader; none where others have part."""
        node = self.makers.get(name)
        if node is None or len(self.readers[name]) != 1:
            return []
        if node.op_type in _CARRIERS:
            names = node.input if node.op_type == "Concat" else node.input[:1]
            parts = [self.behind(each) for each in names]
            return [linear for part in parts for linear in part] if all(parts) else []
        products = [self.makers[each] for each in node.input if each in self.makers]
        found = self.at(products[0]) if node.op_type == "Add" and len(products) == 1 else None
        return [found] if found and found.total is node else []

    def arrays(self, linear: _Linear) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix (rows, columns) and the bias (columns,), float64."""
        assert linear.total is not None
        names = linear.product.input[1], linear.total.input[linear.bias]
        matrix, bias = (self.graph.array(name).astype(np.float64) for name in names)
        return matrix, bias

    def rewrite(self, linear: _Linear, matrix: np.ndarray, bias: np.ndarray) -> None:
        """Give it other constants."""
        assert linear.total is not None
        for node, place, array in ((linear.product, 1, matrix), (linear.total, linear.bias, bias)):
            name = f"{node.input[place]}_folded"
            node.input[place] = self.graph.add(name, array.astype(np.float32))

    def _rank(self, name: str) -> int | None:
        held = self.graph.constants.get(name)
        return None if held is None else len(held.dims)
