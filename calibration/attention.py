"""INT8 inside attention for OpenVINO on the CPU: queries and keys rounded at their source.

OpenVINO then moves small numbers through every split into heads and multiplies queries with keys in
integers. The weights of the softmax stay real, as a step of 1/255 is as large as most of them, and
so do the values, whose product is one of reals either way. ONNX Runtime gains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper

from .elements import ELEMENTS
from .graph import Graph
from .plan import WEIGHTED_OPS, NodePlan
from .ranges import Range

__all__ = ["attention_tensors", "round_attention"]

_ABOVE_SOFTMAX = ("Add", "Div", "Mul")
_CARRIERS = ("Reshape", "Transpose")


def attention_tensors(model: onnx.ModelProto, plan: Mapping[str, NodePlan]) -> tuple[str, ...]:
    """Name the tensors whose ranges `round_attention` needs; see there."""
    return tuple(dict.fromkeys(_sources(Graph(model), plan)))


def round_attention(
    model: onnx.ModelProto, plan: Mapping[str, NodePlan], ranges: Mapping[str, Range]
) -> onnx.ModelProto:
    """Write Q/DQ behind the tensors that become the queries and keys of an attention.

    On BEiT-3-L's layers in static INT8 this took 6 to 7 % of the time away, at the same cosine.
    Values rounded as well took none, and cost as much again.

    Args:
        model: Float graph after `passes.split_gemms` and `fusion.fold_scales`, before
            `static.quantize_static`.
        plan: Node name -> precision, as `static.quantize_static` takes it. An attention is rounded
            where INT8 nodes alone make its queries and keys, so that lifting a block lifts it too.
        ranges: Range of each of `attention_tensors(model, plan)`; those of a plan with more INT8
            nodes hold these too.

    Returns:
        A graph with the same inputs and outputs; one symmetric scale for each tensor.
    """
    graph, kind = Graph(model), ELEMENTS["int8"]
    zero = graph.add("zero_attention", np.zeros((), kind.dtype))
    readers, makers = graph.readers(), graph.makers()
    pairs: dict[str, list[onnx.NodeProto]] = {}
    for name in dict.fromkeys(_sources(graph, plan)):
        magnitude = max(-ranges[name].low, ranges[name].high)
        scale = graph.add(f"{name}_scale", kind.scale(magnitude))
        small, rounded = graph.fresh(f"{name}_int8"), graph.fresh(f"{name}_rounded")
        for node in readers[name]:
            node.input[:] = [rounded if each == name else each for each in node.input]
        pairs[makers[name].name] = [
            helper.make_node("QuantizeLinear", [name, scale, zero], [small], small),
            helper.make_node("DequantizeLinear", [small, scale, zero], [rounded], rounded),
        ]
    graph.nodes = [each for node in graph.nodes for each in (node, *pairs.get(node.name, ()))]
    return graph.model()


def _sources(graph: Graph, plan: Mapping[str, NodePlan]) -> Iterator[str]:
    """Name what each softmax attention multiplies, as it was before heads were split."""
    makers = graph.makers()
    for softmax in graph.nodes:
        if softmax.op_type != "Softmax":
            continue
        above = makers.get(softmax.input[0])
        while above and above.op_type in _ABOVE_SOFTMAX:
            above = makers.get(above.input[0])
        if above is None or above.op_type != "MatMul":
            continue
        names = [_source(makers, name) for name in above.input]
        products = [each for name in names for each in _products(graph, makers, name)]
        if all(node and _is_int8(plan, node.name) for node in products):
            yield from names


def _source(makers: Mapping[str, onnx.NodeProto], name: str) -> str:
    while name in makers and makers[name].op_type in _CARRIERS:
        name = makers[name].input[0]
    return name


def _products(
    graph: Graph, makers: Mapping[str, onnx.NodeProto], name: str
) -> Iterator[onnx.NodeProto | None]:
    """Yield the nearest weighted nodes that make a tensor's numbers; None for a graph's input."""
    maker = makers.get(name)
    if maker is None or maker.op_type in WEIGHTED_OPS:
        yield maker
        return
    for each in maker.input if maker.op_type != "Shape" else ():
        if each and each not in graph.constants:
            yield from _products(graph, makers, each)


def _is_int8(plan: Mapping[str, NodePlan], name: str) -> bool:
    return name in plan and plan[name].precision == "int8"
