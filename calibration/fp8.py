"""FP8: which GPUs compute in it, and how ONNX Runtime computes the same without it."""

from __future__ import annotations

from types import MappingProxyType

import onnx
from onnx import TensorProto, helper

from ..runtime.errors import DeviceError
from .graph import Graph

__all__ = ["FP8_KEEP", "LEAST_FP8_SM", "check_fp8", "simulate_fp8"]

FP8_KEEP = MappingProxyType(
    {"Conv": "TensorRT has FP8 convolutions for few shapes, no faster than FP16"}
)
"""What an FP8 plan leaves in floating point, for `plan.plan_nodes`; see NVIDIA/TensorRT 3987, and
the study of YOLOv10 in NVIDIA/TensorRT-Model-Connect: 1.00x at 0.3 AP lost."""

LEAST_FP8_SM = 89
"""First GPUs with FP8 arithmetic, Ada, as compute capability times ten."""


def check_fp8(sm: int) -> None:
    """Refuse a GPU that cannot compute in FP8.

    Args:
        sm: Compute capability times ten.

    Raises:
        DeviceError: It is older than Ada.
    """
    if sm < LEAST_FP8_SM:
        found = f"{sm // 10}.{sm % 10}" + (" (Jetson Orin)" if sm == 87 else "")
        raise DeviceError(
            "FP8 takes a GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell), as older "
            f"ones have no FP8 arithmetic; got {found}; take --int8 or --fp16"
        )


def simulate_fp8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the values of an FP8 graph that ONNX Runtime runs on a CPU.

    It has both operators of a Q/DQ pair for FP8, but takes them for INT8 when it moves and fuses
    them, and refuses what it made of them (1.31). So each is written as two other operators.

    Args:
        model: From `symmetric.lower_symmetric`, not yet through `export.halve`.
    """
    graph = Graph(model)
    nodes: list[onnx.NodeProto] = []
    rewrites = {"QuantizeLinear": _divide_and_cast, "DequantizeLinear": _cast_and_multiply}
    for node in graph.nodes:
        rewrite = rewrites.get(node.op_type)
        nodes += rewrite(graph, node) if rewrite else [node]
    graph.nodes = nodes
    return graph.model()


def _divide_and_cast(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    ratio = graph.fresh(f"{node.output[0]}_ratio")
    return [
        helper.make_node("Div", node.input[:2], [ratio], ratio),
        helper.make_node("Cast", [ratio], node.output, node.name, to=TensorProto.FLOAT8E4M3FN),
    ]


def _cast_and_multiply(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    number, scale = node.input[:2]
    ratio = graph.fresh(f"{node.output[0]}_ratio")
    return [
        helper.make_node("Cast", [number], [ratio], ratio, to=TensorProto.FLOAT),
        helper.make_node("Mul", [ratio, scale], node.output, node.name),
    ]
