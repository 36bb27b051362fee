"""Dynamic INT8: a product with a constant matrix takes the scale of its input on every run.

Activations are uint8, matrices int8 with a scale per column, in the form that ONNX Runtime fuses
into DynamicQuantizeMatMul, or MatMulIntegerToFloat where several products read one tensor. One
scale spans the whole tensor, so a phrase's result depends a little on the phrases in its batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from .graph import Graph
from .plan import NodePlan
from .scales import symmetric_int8, weight_bits_here

__all__ = ["quantize_dynamic"]


def quantize_dynamic(
    model: onnx.ModelProto, plan: Mapping[str, NodePlan], *, weight_bits: int | None = None
) -> onnx.ModelProto:
    """Write the products that a plan makes INT8 as integer products; convolutions stay FP32.

    Args:
        model: FP32 graph after `passes.split_gemms`, opset 13 or later.
        plan: Node name -> precision, from `plan.plan_nodes`.
        weight_bits: See `static.quantize_static`.

    Returns:
        A graph with the same float inputs and outputs; matrices of INT8 nodes are int8.
    """
    graph, bits = Graph(model), weight_bits or weight_bits_here()
    matrices: dict[str, list[str]] = {}
    rounded: dict[str, list[str]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        is_integer = node.name in plan and plan[node.name].precision == "int8"
        if node.op_type != "MatMul" or not is_integer:
            nodes.append(node)
            continue
        rows, matrix = node.input
        if matrix not in matrices:
            integers, scale = symmetric_int8(graph.array(matrix), axis=1, bits=bits)
            matrices[matrix] = [
                graph.add(f"{matrix}_int8", integers),
                graph.add(f"{matrix}_scale", scale),
            ]
        if rows not in rounded:
            rounded[rows] = [graph.fresh(f"{rows}_{part}") for part in ("uint8", "scale", "zero")]
            name = f"{node.name}_quantize"
            nodes.append(helper.make_node("DynamicQuantizeLinear", [rows], rounded[rows], name))
        nodes += _integer_product(graph, node, rounded[rows], matrices[matrix])
    graph.nodes = nodes
    return graph.model()


def _integer_product(
    graph: Graph, product: onnx.NodeProto, rows: list[str], matrix: list[str]
) -> list[onnx.NodeProto]:
    """Multiply integers, then by the product of both scales: the order in which engines fuse."""
    name = product.name
    integers, row_scale, zero = rows
    total, real, scale = (graph.fresh(f"{name}_{part}") for part in ("int32", "real", "scale"))
    return [
        helper.make_node("MatMulInteger", [integers, matrix[0], zero], [total], name),
        helper.make_node("Cast", [total], [real], f"{name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [row_scale, matrix[1]], [scale], f"{name}_scale"),
        helper.make_node("Mul", [real, scale], product.output, f"{name}_rescale"),
    ]
