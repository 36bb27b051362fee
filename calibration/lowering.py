"""A plan for the CPU, written as the graph that ONNX Runtime or OpenVINO runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from .attention import round_attention
from .dynamic import quantize_dynamic
from .graph import Graph
from .plan import NodePlan, only
from .ranges import Range
from .static import quantize_static

__all__ = ["Lower", "joined_tensors", "lower_cpu", "lower_openvino"]

_CARRIERS = ("Reshape", "Transpose")

Lower = Callable[[Mapping[str, NodePlan]], onnx.ModelProto]
"""Writes a plan of one stage as a graph; the same plan gives the same graph."""


def lower_cpu(
    model: onnx.ModelProto, plan: Mapping[str, NodePlan], ranges: Mapping[str, Range]
) -> onnx.ModelProto:
    """Write static INT8 around some nodes and dynamic INT8 around others.

    A tensor that both read is rounded statically where it arises, and once more for the dynamic
    ones.

    Args:
        model: FP32 graph after `passes.split_gemms`.
        plan: Node name -> "int8-static", "int8-dynamic" (products only) or "fp32".
        ranges: Range of each tensor that static nodes round; see `static.quantized_tensors`. Those
            of a plan with more static nodes hold these too.
    """
    precisions = {each.precision for each in plan.values()}
    if "int8-static" in precisions:
        model = quantize_static(model, only(plan, "int8-static"), ranges)
    if "int8-dynamic" in precisions:
        model = quantize_dynamic(model, only(plan, "int8-dynamic"))
    return model


def lower_openvino(
    model: onnx.ModelProto, plan: Mapping[str, NodePlan], ranges: Mapping[str, Range]
) -> onnx.ModelProto:
    """Write static INT8 around some nodes, and around the attention between them.

    What convolutions make stays real before activations: OpenVINO takes these and the rounding
    behind into the convolution, but not behind a rounding. EfficientViT-SAM-L0 takes 7 % less so,
    and is nearer to FP32. A residual sum, the other way round, it takes in where all is rounded.

    Args:
        model: FP32 graph after `passes.split_gemms`, best after those of `fusion` too.
        plan: Node name -> "int8-static" or "fp32".
        ranges: Range of each of `static.quantized_tensors`, sums only, and of
            `attention.attention_tensors`. Those of a plan with more static nodes hold these too.
    """
    static = only(plan, "int8-static")
    rounded = round_attention(model, static, ranges)
    joined = joined_tensors(model)
    return quantize_static(rounded, static, ranges, symmetric=joined, sums_only=True)


def joined_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Name what a Concat makes, which `lower_openvino` rounds without a zero point.

    OpenVINO 2026.4 moves a zero point through the Concat, has one for each part in the end, and
    refuses the product behind.
    """
    found: set[str] = set()
    for node in Graph(model).nodes:
        if node.op_type == "Concat" or (node.op_type in _CARRIERS and node.input[0] in found):
            found.update(node.output)
    return frozenset(found)
