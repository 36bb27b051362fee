"""The graphs a stage could run as: FP32, static INT8 and dynamic INT8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from .dynamic import quantize_dynamic
from .passes import replace_resizes, split_gemms
from .plan import NodePlan, plan_nodes
from .ranges import observe
from .static import quantize_static, quantized_tensors

__all__ = ["Candidate", "candidates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One graph a stage could run as."""

    precision: str
    """"fp32", "int8-static" or "int8-dynamic"."""
    model: onnx.ModelProto
    """The graph, with the inputs and outputs of the FP32 one."""
    plan: Mapping[str, NodePlan]
    """What each weighted node computes in, and why; empty for FP32."""


def candidates(
    model: onnx.ModelProto,
    feeds: Iterable[Mapping[str, np.ndarray]],
    *,
    keep: Mapping[str, str] | None = None,
    percent: float = 99.99,
    threads: int = 1,
) -> tuple[Candidate, ...]:
    """Simplify a graph and quantize it in every way that applies.

    Args:
        model: FP32 graph of one stage, opset 18 to 21.
        feeds: Real inputs by name, read once; see `ranges.observe`.
        keep: Nodes and operators that stay FP32, with reasons; see `plan.plan_nodes`.
        percent: Share of a tensor's values that static scales cover; 100 covers the extremes.
        threads: Threads of one operator while ranges are taken.

    Returns:
        FP32 first, then static INT8 where a node may become INT8, then dynamic INT8 where one of
        these is a product.

    Raises:
        UsageError: There is no feed, or `keep` names what cannot be planned.
        EngineError: ONNX Runtime refuses the graph or a feed.
    """
    model = replace_resizes(model)
    found = [Candidate(precision="fp32", model=model, plan={})]
    model = split_gemms(model)
    plan = plan_nodes(model, keep=keep)
    if _has_integers(plan):
        histograms = observe(model, feeds, quantized_tensors(model, plan), threads=threads)
        ranges = {name: histogram.range(percent) for name, histogram in histograms.items()}
        static = quantize_static(model, plan, ranges)
        found.append(Candidate(precision="int8-static", model=static, plan=plan))
    plan = plan_nodes(model, keep={"Conv": "dynamic scales are for products", **(keep or {})})
    if _has_integers(plan):
        dynamic = quantize_dynamic(model, plan)
        found.append(Candidate(precision="int8-dynamic", model=dynamic, plan=plan))
    return tuple(found)


def _has_integers(plan: Mapping[str, NodePlan]) -> bool:
    return any(each.precision == "int8" for each in plan.values())
