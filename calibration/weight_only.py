"""Weights stored as INT8 or INT4 under products that stay in floating point: fewer bytes to read.

A product at few rows waits for its weights, not for arithmetic. The compiler makes them real inside
the product. Of a convolution it writes the real weights out before every run, which gains nothing,
so convolutions stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..runtime.errors import UsageError
from .elements import ELEMENTS, Element
from .graph import Graph
from .plan import NodePlan

__all__ = ["store_weight", "weight_only"]

_LEAST_BLOCK = 16
"""Matrices whose rows do not divide into blocks of so many stay as they are."""
_BLOCK_OPSET, _BLOCK_IR_VERSION = 21, 10
"""The first with 4-bit numbers and scales for blocks."""


def weight_only(
    model: onnx.ModelProto, plan: Mapping[str, NodePlan], *, bits: int, block: int = 128
) -> onnx.ModelProto:
    """Store the matrices of the products that a plan quantizes as small numbers.

    INT8 has a scale for each column. INT4 has one for each `block` neighbours in a column, or for
    half as many, or a quarter ..., until the rows divide into several blocks, which TensorRT fuses.

    Args:
        model: FP32 graph after `passes.split_gemms`, opset 19 or later; INT4 raises it to 21.
        plan: Node name -> precision, from `plan.plan_nodes`; see `symmetric.lower_symmetric`.
        bits: 8 or 4.
        block: Most neighbours under one scale in INT4, at least 16.

    Returns:
        A graph with the same float inputs and outputs and float arithmetic.

    Raises:
        UsageError: There is no such width, or INT4 would change what another node means.
    """
    if bits not in (8, 4) or block < _LEAST_BLOCK:
        raise UsageError(
            f"weights must be stored in 8 or 4 bits and blocks of {_LEAST_BLOCK} or more; got "
            f"{bits} bits and blocks of {block}"
        )
    graph = Graph(model)
    stored: dict[str, onnx.NodeProto | None] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type == "MatMul" and node.name in plan and plan[node.name].precision != "fp32":
            name = node.input[1]
            if name not in stored:
                stored[name] = _stored_matrix(graph, name, bits, block)
                nodes += filter(None, [stored[name]])
            if maker := stored[name]:
                node.input[1] = maker.output[0]
        nodes.append(node)
    graph.nodes = nodes
    lowered = graph.model()
    return _with_blocks(lowered) if bits == 4 else lowered


def store_weight(
    graph: Graph, name: str, element: Element, *, axis: int | None, block: int | None = None
) -> onnx.NodeProto:
    """Keep a constant as small numbers too and return the new node that makes them real.

    Args:
        graph: Is given the numbers and their scales as constants.
        name: The constant, float32 of any shape.
        element: What the numbers are.
        axis: Where scales differ: along this axis alone; None is one scale for all.
        block: Neighbours along `axis` that share a scale, which then differ along all other axes
            too; divides the extent of `axis`.
    """
    weight = graph.array(name)
    if axis is None:
        grouped, shared = weight, tuple(range(weight.ndim))
    elif block is None:
        grouped, shared = weight, tuple(each for each in range(weight.ndim) if each != axis)
    else:
        before, after = weight.shape[:axis], weight.shape[axis + 1 :]
        grouped, shared = weight.reshape(*before, -1, block, *after), (axis + 1,)
    scale = element.scale(np.abs(grouped).max(axis=shared, keepdims=True))
    numbers = element.round(grouped, scale).reshape(weight.shape)
    constants = [
        graph.add(f"{name}_{numbers.dtype}", numbers),
        graph.add(f"{name}_scale", scale.squeeze(shared)),
    ]
    real = graph.fresh(f"{name}_rounded")
    places: dict[str, Any] = {"axis": axis, "block_size": block}
    attributes = {key: value for key, value in places.items() if value is not None}
    return helper.make_node("DequantizeLinear", constants, [real], real, **attributes)


def _stored_matrix(graph: Graph, name: str, bits: int, block: int) -> onnx.NodeProto | None:
    """Store a matrix; None where its rows do not divide into blocks."""
    if bits == 8:
        return store_weight(graph, name, ELEMENTS["int8"], axis=1)
    rows = graph.constants[name].dims[0]
    while block >= _LEAST_BLOCK and (rows % block or rows == block):
        block //= 2
    if block < _LEAST_BLOCK:
        return None
    return store_weight(graph, name, ELEMENTS["int4"], axis=0, block=block)


def _with_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a graph hold 4-bit numbers; of its operators only one means something else then."""
    default = next(each for each in model.opset_import if not each.domain)
    if default.version < _BLOCK_OPSET:
        changed = [node.name for node in model.graph.node if node.op_type == "GroupNormalization"]
        if changed:
            raise UsageError(
                f"INT4 takes opset {_BLOCK_OPSET}, in which GroupNormalization reads other scales; "
                f"the graph has opset {default.version} and {', '.join(changed)}; take 8 bits"
            )
        default.version = _BLOCK_OPSET
    model.ir_version = max(model.ir_version, _BLOCK_IR_VERSION)
    return model
