"""Static INT8: scales fixed beforehand, as QuantizeLinear and DequantizeLinear in the graph.

Activations are uint8 with a zero point, weights int8 with a scale per channel: the form with quick
kernels in ONNX Runtime on x86-64. A convolution stands between two Q/DQ pairs and runs as one
QLinearConv; a product has a pair on its input only and runs as MatMulIntegerToFloat. Processors
without VNNI add pairs of products in 16 bits, which may saturate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper

from .graph import Graph
from .plan import NodePlan
from .ranges import Range
from .scales import affine_uint8, least_scale, plain_int8, symmetric_int8, weight_bits_here

__all__ = ["quantize_static", "quantized_tensors"]


def quantized_tensors(
    model: onnx.ModelProto, plan: Mapping[str, NodePlan], *, sums_only: bool = False
) -> tuple[str, ...]:
    """Name the tensors that become integers: what INT8 nodes read and what convolutions make.

    Of a convolution with nothing but a ReLU after it, the ReLU's output is meant; both are one
    kernel.

    Args:
        model: As for `quantize_static`.
        plan: As for `quantize_static`.
        sums_only: Whether to name what convolutions make only where a sum or an INT8 node reads it.
    """
    graph = Graph(model)
    readers = graph.readers()
    names: dict[str, None] = {}
    for node in graph.nodes:
        if node.name not in plan or plan[node.name].precision != "int8":
            continue
        names[node.input[0]] = None
        if node.op_type == "Conv":
            made, after = node.output[0], readers.get(node.output[0], [])
            if [each.op_type for each in after] == ["Relu"]:
                made = after[0].output[0]
                after = readers.get(made, [])
            if not sums_only or "Add" in (each.op_type for each in after):
                names[made] = None
    return tuple(names)


def quantize_static(
    model: onnx.ModelProto,
    plan: Mapping[str, NodePlan],
    ranges: Mapping[str, Range],
    *,
    symmetric: Collection[str] = (),
    sums_only: bool = False,
    weight_bits: int | None = None,
) -> onnx.ModelProto:
    """Write Q/DQ around the nodes that a plan makes INT8.

    Args:
        model: FP32 graph after `passes.split_gemms`, opset 13 or later.
        plan: Node name -> precision, from `plan.plan_nodes`.
        ranges: Range of each of `quantized_tensors(model, plan, sums_only=sums_only)`.
        symmetric: Those that become int8 without a zero point.
        sums_only: Whether what convolutions make becomes integers only where a sum or an INT8 node
            reads it. ONNX Runtime's integer kernel needs it always.
        weight_bits: 8, or 7 for processors whose sums overflow; None takes what is right here.

    Returns:
        A graph with the same float inputs and outputs; weights of INT8 nodes are int8.
    """
    graph = Graph(model)
    scales = {
        name: (plain_int8 if name in symmetric else affine_uint8)(ranges[name])
        for name in quantized_tensors(model, plan, sums_only=sums_only)
    }
    readers, bits = graph.readers(), weight_bits or weight_bits_here()
    matrices: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.name in plan and plan[node.name].precision == "int8":
            if node.op_type == "Conv":
                _quantize_kernels(graph, node, scales[node.input[0]][0], nodes, bits)
            else:
                _quantize_matrix(graph, node, matrices, nodes, bits)
                _subtract_bias(graph, node.output[0], readers)
        nodes.append(node)
    graph.nodes = nodes
    _insert_pairs(graph, scales)
    return graph.model()


def _quantize_kernels(
    graph: Graph,
    conv: onnx.NodeProto,
    input_scale: np.ndarray,
    nodes: list[onnx.NodeProto],
    bits: int,
) -> None:
    """Make the kernels int8 and the bias int32 in units of input and kernel scale."""
    name, *bias_name = conv.input[1:]
    bias = graph.array(bias_name[0]) if any(bias_name) else np.zeros(0, np.float32)
    least = least_scale(bias, input_scale) if bias.size else 0.0
    integers, scale = symmetric_int8(graph.array(name), axis=0, least=least, bits=bits)
    conv.input[1] = _dequantized(graph, name, integers, scale, 0, nodes)
    if bias.size:
        unit = scale * input_scale
        integers = np.rint(bias / unit).astype(np.int32)
        conv.input[2] = _dequantized(graph, bias_name[0], integers, unit, 0, nodes)


def _quantize_matrix(
    graph: Graph,
    product: onnx.NodeProto,
    matrices: dict[str, str],
    nodes: list[onnx.NodeProto],
    bits: int,
) -> None:
    """Make the matrix int8, once for all products that share it."""
    name = product.input[1]
    if name not in matrices:
        integers, scale = symmetric_int8(graph.array(name), axis=1, bits=bits)
        matrices[name] = _dequantized(graph, name, integers, scale, 1, nodes)
    product.input[1] = matrices[name]


def _subtract_bias(graph: Graph, product: str, readers: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Write the bias of a product as the subtraction of its negative.

    ONNX Runtime makes Gemm of MatMul and Add before it looks for Q/DQ and finds none around that,
    which then takes 1.8 times as long as FP32.
    """
    for node in readers.get(product, []):
        bias = [name for name in node.input if name in graph.constants]
        if node.op_type == "Add" and bias:
            node.op_type = "Sub"
            node.input[:] = [product, graph.add(f"{bias[0]}_negated", -graph.array(bias[0]))]


def _insert_pairs(graph: Graph, scales: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Round tensors where they arise, so that every reader sees the same values."""
    nodes: list[onnx.NodeProto] = []
    rounded = {}
    for name in graph.inputs:
        if name in scales:
            rounded[name] = graph.fresh(f"{name}_rounded")
            nodes += _pair(graph, name, rounded[name], scales[name])
    for node in graph.nodes:
        node.input[:] = [rounded.get(name, name) for name in node.input]
        nodes.append(node)
        for number, name in enumerate(node.output):
            if name in scales:
                node.output[number] = graph.fresh(f"{name}_real")
                nodes += _pair(graph, node.output[number], name, scales[name])
    graph.nodes = nodes


def _pair(
    graph: Graph, real: str, rounded: str, scale: tuple[np.ndarray, np.ndarray]
) -> list[onnx.NodeProto]:
    constants = [
        graph.add(f"{rounded}_{part}", array)
        for part, array in zip(("scale", "zero"), scale, strict=True)
    ]
    integers = graph.fresh(f"{rounded}_{scale[1].dtype}")
    return [
        helper.make_node("QuantizeLinear", [real, *constants], [integers], f"{rounded}_quantize"),
        helper.make_node(
            "DequantizeLinear", [integers, *constants], [rounded], f"{rounded}_dequantize"
        ),
    ]


def _dequantized(
    graph: Graph,
    name: str,
    integers: np.ndarray,
    scale: np.ndarray,
    axis: int,
    nodes: list[onnx.NodeProto],
) -> str:
    """Keep `integers` as a constant, append the node that makes them real and name its output."""
    constants = [
        graph.add(f"{name}_{integers.dtype}", integers),
        graph.add(f"{name}_scale", scale),
    ]
    real = graph.fresh(f"{name}_rounded")
    nodes.append(helper.make_node("DequantizeLinear", constants, [real], real, axis=axis))
    return real
