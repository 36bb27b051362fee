"""Symmetric INT8 and FP8 for TensorRT: Q/DQ pairs where its compilers fuse them.

A strongly typed compiler computes in what the graph says. So every input of a quantized node is
rounded: its weights, which are stored as small numbers, and what it reads, by one pair that all
quantized readers of a tensor share. Nothing is rounded between a node and its bias or ReLU, nor for
other nodes. The rules are those of TensorRT's guide, chapter "Explicit Quantization".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper

from ..runtime.errors import UnknownNameError, UsageError
from .elements import ELEMENTS
from .graph import Graph
from .plan import NodePlan
from .ranges import Range
from .weight_only import store_weight

__all__ = ["lower_symmetric", "symmetric_tensors"]

_ELEMENTS = ("int8", "fp8")
_LONGEST = 512
"""Most queries or keys of an attention that TensorRT fuses in INT8."""
_ABOVE_SOFTMAX = ("Add", "Div", "Mul")
"""What scales and masks the logits of an attention."""

_Reads = dict[str, list[tuple[onnx.NodeProto, int]]]
"""Tensor -> the nodes that read it rounded, each with the position of that input."""


def symmetric_tensors(
    model: onnx.ModelProto,
    plan: Mapping[str, NodePlan],
    *,
    element: str,
    attention: bool = False,
) -> tuple[str, ...]:
    """Name the tensors whose ranges `lower_symmetric` needs; see there."""
    graph = Graph(model)
    known = _softmax_outputs(graph)
    return tuple(name for name in _reads(graph, plan, element, attention) if name not in known)


def lower_symmetric(
    model: onnx.ModelProto,
    plan: Mapping[str, NodePlan],
    ranges: Mapping[str, Range],
    *,
    element: str,
    attention: bool = False,
) -> onnx.ModelProto:
    """Write Q/DQ around the nodes that a plan quantizes.

    Weights have a scale for each output channel in INT8 and one for all in FP8, whose products take
    no more before Hopper. The shortcut of a residual sum is rounded too where a quantized
    convolution makes the other side and all that read the sum read it rounded: then the sum becomes
    part of the convolution, with small numbers in and out.

    Args:
        model: FP32 graph after `passes.split_gemms`, opset 19 or later.
        plan: Node name -> precision, from `plan.plan_nodes`; what is not "fp32" is quantized.
        ranges: Range of each of `symmetric_tensors(...)` with the same arguments.
        element: "int8" or "fp8" (E4M3).
        attention: Whether to quantize both products of softmax attention as well; in INT8 only
            where at most 512 queries meet at most 512 keys. A number that varies from run to run is
            that of a phrase's tokens and counts as few. TensorRT-RTX 1.7 keeps such an attention in
            one kernel in FP8, as in FP16, but not in INT8.

    Returns:
        A graph with the same float inputs and outputs. FP16 holds all scales exactly, so a graph
        made FP16 afterwards rounds to the same numbers.

    Raises:
        UnknownNameError: There is no such element.
        UsageError: The range of a tensor is missing.
    """
    graph = Graph(model)
    reads = _reads(graph, plan, element, attention)
    magnitudes = _magnitudes(graph, reads, ranges)
    kind = ELEMENTS[element]
    zero = graph.add(f"zero_{element}", np.zeros((), kind.dtype))
    pairs = {name: _pair(graph, name, kind.scale(magnitudes[name]), zero) for name in reads}
    for name, places in reads.items():
        for node, position in places:
            node.input[position] = pairs[name][-1].output[0]
    stored: dict[str, onnx.NodeProto] = {}
    nodes = [each for name in graph.inputs for each in pairs.get(name, ())]
    for node in graph.nodes:
        if _is_quantized(node, plan):
            name = node.input[1]
            if name not in stored:
                stored[name] = store_weight(graph, name, kind, axis=_channels(node, element))
                nodes.append(stored[name])
            node.input[1] = stored[name].output[0]
        nodes.append(node)
        nodes += [each for name in node.output for each in pairs.get(name, ())]
    graph.nodes = nodes
    return graph.model()


def _magnitudes(
    graph: Graph, names: Iterable[str], ranges: Mapping[str, Range]
) -> dict[str, float]:
    """Return the largest absolute value of each tensor that is rounded."""
    known = {**ranges, **dict.fromkeys(_softmax_outputs(graph), Range(low=0, high=1))}
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(
            "what is rounded must have a range, see symmetric_tensors; there is none of "
            f"{', '.join(missing)}; observe them with the plan that is lowered"
        )
    return {name: max(-known[name].low, known[name].high) for name in names}


def _channels(node: onnx.NodeProto, element: str) -> int | None:
    """Return the axis of a node's weight along which scales differ."""
    if element == "fp8":
        return None
    return 0 if node.op_type == "Conv" else 1


def _pair(
    graph: Graph, name: str, scale: np.ndarray, zero: str
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    small, rounded = graph.fresh(f"{name}_quantized"), graph.fresh(f"{name}_rounded")
    constants = [graph.add(f"{name}_scale", scale), zero]
    return (
        helper.make_node("QuantizeLinear", [name, *constants], [small], small),
        helper.make_node("DequantizeLinear", [small, *constants], [rounded], rounded),
    )


def _reads(graph: Graph, plan: Mapping[str, NodePlan], element: str, attention: bool) -> _Reads:
    """Decide what is rounded, and for whom."""
    if element not in _ELEMENTS:
        raise UnknownNameError("element", element, _ELEMENTS)
    reads: _Reads = {}
    for node in graph.nodes:
        if _is_quantized(node, plan):
            reads.setdefault(node.input[0], []).append((node, 0))
    if attention:
        longest = _LONGEST if element == "int8" else None
        for product in _attention_products(graph, longest):
            for position, name in enumerate(product.input):
                reads.setdefault(name, []).append((product, position))
    for name, place in _shortcuts(graph, plan, reads):
        reads.setdefault(name, []).append(place)
    return reads


def _is_quantized(node: onnx.NodeProto, plan: Mapping[str, NodePlan]) -> bool:
    return node.name in plan and plan[node.name].precision != "fp32"


def _softmax_outputs(graph: Graph) -> list[str]:
    """Name the tensors whose values lie in [0, 1] whatever the data."""
    return [node.output[0] for node in graph.nodes if node.op_type == "Softmax"]


def _attention_products(graph: Graph, longest: int | None) -> Iterator[onnx.NodeProto]:
    """Yield queries times keys and weights times values of each attention of at most `longest`."""
    makers, readers, extents = graph.makers(), graph.readers(), graph.extents()
    for softmax in graph.nodes:
        if softmax.op_type != "Softmax":
            continue
        above = makers.get(softmax.input[0])
        while above and above.op_type in _ABOVE_SOFTMAX:
            above = makers.get(above.input[0])
        products = [above, *readers.get(softmax.output[0], [])]
        lengths = extents.get(softmax.output[0])
        is_short = longest is None or (lengths and max(lengths[-2:]) <= longest)
        is_attention = len(products) == 2 and all(
            each and each.op_type == "MatMul" and not graph.constants.keys() & set(each.input)
            for each in products
        )
        if is_short and is_attention:
            yield from filter(None, products)


def _shortcuts(
    graph: Graph, plan: Mapping[str, NodePlan], reads: _Reads
) -> Iterator[tuple[str, tuple[onnx.NodeProto, int]]]:
    """Yield the tensors that residual sums shall read rounded, each with its place.

    The last sum comes first, and `reads` must know of it when the next is asked for: one sum is
    often the next one's shortcut.
    """
    makers, readers = graph.makers(), graph.readers()
    for node in reversed(graph.nodes):
        if node.op_type != "Add" or not _is_read_rounded(node.output[0], readers, reads):
            continue
        branches = [
            position
            for position, name in enumerate(node.input)
            if readers[name] == [node]
            and name in makers
            and makers[name].op_type == "Conv"
            and _is_quantized(makers[name], plan)
        ]
        # Of two convolutions the one on the right takes the sum: the main branch, as is custom.
        shortcut = 1 - branches[-1] if branches else None
        if shortcut is not None and node.input[shortcut] not in graph.constants:
            yield node.input[shortcut], (node, shortcut)


def _is_read_rounded(name: str, readers: Mapping[str, list[onnx.NodeProto]], reads: _Reads) -> bool:
    """Say whether all that read a tensor, or the ReLU of it, read it rounded."""
    after = readers.get(name, [])
    if [each.op_type for each in after] == ["Relu"]:
        return _is_read_rounded(after[0].output[0], readers, reads)
    rounded = {node.name for node, _ in reads.get(name, [])}
    return bool(after) and all(each.name in rounded for each in after)
