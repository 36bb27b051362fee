"""A plan for ONNX Runtime on the CPU, written as the graph that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from .dynamic import quantize_dynamic
from .plan import NodePlan, only
from .ranges import Range
from .static import quantize_static

__all__ = ["Lower", "lower_cpu"]

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
