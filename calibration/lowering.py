"""A plan for the CPU, written as the graph that ONNX Runtime or OpenVINO runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import helper

from ..runtime.spec import WEIGHT_BITS
from .attention import round_attention
from .dynamic import quantize_dynamic
from .graph import Graph
from .plan import NodePlan, only
from .ranges import Range
from .scales import weight_bits_here
from .static import quantize_static

__all__ = ["Lower", "joined_tensors", "lower_cpu", "lower_openvino"]

_CARRIERS = ("Reshape", "Transpose")

Lower = Callable[[Mapping[str, NodePlan]], onnx.ModelProto]
"""Writes a plan of one stage as a graph; the same plan gives the same graph."""


def lower_cpu(
    model: onnx.ModelProto,
    plan: Mapping[str, NodePlan],
    ranges: Mapping[str, Range],
    *,
    weight_bits: int | None = None,
) -> onnx.ModelProto:
    """Write static INT8 around some nodes and dynamic INT8 around others.

    A tensor that both read is rounded statically where it arises, and once more for the dynamic
    ones.

    Args:
        model: FP32 graph after `passes.split_gemms`.
        plan: Node name -> "int8-static", "int8-dynamic" (products only) or "fp32".
        ranges: Range of each tensor that static nodes round; see `static.quantized_tensors`. Those
            of a plan with more static nodes hold these too.
        weight_bits: See `static.quantize_static`.
    """
    precisions = {each.precision for each in plan.values()}
    bits = weight_bits or weight_bits_here()
    if "int8-static" in precisions:
        model = quantize_static(model, only(plan, "int8-static"), ranges, weight_bits=bits)
    if "int8-dynamic" in precisions:
        model = quantize_dynamic(model, only(plan, "int8-dynamic"), weight_bits=bits)
    return _noted(model, bits) if precisions & {"int8-static", "int8-dynamic"} else model


def lower_openvino(
    model: onnx.ModelProto,
    plan: Mapping[str, NodePlan],
    ranges: Mapping[str, Range],
    *,
    weight_bits: int | None = None,
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
        weight_bits: See `lower_cpu`.
    """
    static, bits = only(plan, "int8-static"), weight_bits or weight_bits_here()
    written = quantize_static(
        round_attention(model, static, ranges),
        static,
        ranges,
        symmetric=joined_tensors(model),
        sums_only=True,
        weight_bits=bits,
    )
    return _noted(written, bits)


def _noted(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """Note in a graph how large its weights are, for engines that warn where sums overflow."""
    helper.set_model_props(model, {WEIGHT_BITS: str(bits)})
    return model


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
