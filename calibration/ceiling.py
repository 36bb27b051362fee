"""How quickly this machine multiplies matrices: what a stage could take at best."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.bench.rivals import Ceiling, StageCeiling
from ..runtime.engine import Engine
from .graph import Graph, attribute
from .macs import multiply_adds
from .session import open_model

__all__ = ["Product", "Work", "measure_ceiling", "work_of"]

_ROUNDS = 15
_MOST_ROWS = 1024
_MOST_PRODUCTS = 6
_ELEMENTS = (TensorProto.UINT8, TensorProto.FLOAT)


class Product(NamedTuple):
    """Extents of a product (rows, depth) x (depth, columns)."""

    rows: int
    depth: int
    columns: int

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.depth * self.columns


_LARGE = (Product(1024, 1024, 1024), Product(512, 512, 512))
"""Shapes that engines are tuned for, beside the stages' own."""


class Work(NamedTuple):
    """What a stage computes in one run."""

    operations: int
    """Multiplications and additions of all products and convolutions."""
    products: Counter[Product]
    """Those with constant weights and how often each comes; convolutions as unfolded."""


def work_of(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> Work:
    """Count what a graph computes.

    Args:
        model: Float graph of any size.
        feed: Real inputs by name.

    Raises:
        EngineError: ONNX Runtime refuses the graph or the feed.
    """
    graph, counts = Graph(model), multiply_adds(model, feed)
    products: Counter[Product] = Counter()
    for node in graph.nodes:
        weight = graph.constants.get(node.input[1]) if node.name in counts else None
        if weight is None or attribute(node, "group", 1) != 1 or len(weight.dims) < 2:
            continue
        first, second, *kernel = weight.dims
        if node.op_type == "Conv":
            depth, columns = second * int(np.prod(kernel)), first
        elif node.op_type == "ConvTranspose":
            depth, columns = first, second * int(np.prod(kernel))
        else:
            is_turned = node.op_type == "Gemm" and attribute(node, "transB", 0)
            depth, columns = (second, first) if is_turned else (first, second)
        products[Product(counts[node.name] // (depth * columns), depth, columns)] += 1
    return Work(2 * sum(counts.values()), products)


def measure_ceiling(works: Mapping[str, Work], *, threads: int | None) -> Ceiling:
    """Measure the rate of the products that make up most of each stage, and of large ones.

    Args:
        works: Stage -> what it computes; all stages have products.
        threads: Threads of the CPU; None leaves one for each physical core.

    Raises:
        EngineError: ONNX Runtime refuses a product.
    """
    chosen = {stage: _most_of(work) for stage, work in works.items()}
    shapes = dict.fromkeys(_LARGE + tuple(s for counts in chosen.values() for s in counts))
    rates = _rates(shapes, threads)
    int8_gops, fp32_gops = (max(rate[which] for rate in rates.values()) for which in (0, 1))
    stages = []
    for stage, counts in chosen.items():
        own = [_together(counts, {s: rates[s][which] for s in counts}) for which in (0, 1)]
        stages.append(
            StageCeiling(
                stage=stage,
                operations=works[stage].operations,
                int8_gops=own[0],
                fp32_gops=own[1],
            )
        )
    return Ceiling(int8_gops=int8_gops, fp32_gops=fp32_gops, stages=tuple(stages))


def _most_of(work: Work) -> Counter[Product]:
    """Return the shapes with the most operations; rows beyond what changes a rate are cut off."""
    cut: Counter[Product] = Counter()
    for shape, count in work.products.items():
        cut[shape._replace(rows=min(shape.rows, _MOST_ROWS))] += count * max(
            1, round(shape.rows / _MOST_ROWS)
        )
    total = sorted(cut, key=lambda shape: shape.operations * cut[shape], reverse=True)
    return Counter({shape: cut[shape] for shape in total[:_MOST_PRODUCTS]})


def _together(counts: Mapping[Product, int], gops: Mapping[Product, float]) -> float:
    """Return the rate of products that run one after the other."""
    operations = {shape: shape.operations * count for shape, count in counts.items()}
    return sum(operations.values()) / sum(each / gops[s] for s, each in operations.items())


def _rates(shapes: Iterable[Product], threads: int | None) -> dict[Product, tuple[float, float]]:
    """Time products in turns: billions of operations a second in INT8 and FP32."""
    generator = np.random.default_rng(0)
    with ExitStack() as stack:
        runs: list[tuple[Product, Engine, dict[str, np.ndarray]]] = []
        for shape in shapes:
            rows = generator.integers(0, 256, (shape.rows, shape.depth), np.uint8)
            for element in _ELEMENTS:
                engine = open_model(_model(shape, element), threads=threads or 0)
                stack.callback(engine.close)
                dtype = helper.tensor_dtype_to_np_dtype(element)
                runs.append((shape, engine, {"rows": rows.astype(dtype)}))
        times_ns = np.empty((_ROUNDS + 1, len(runs)))
        for times in times_ns:
            for which in generator.permutation(len(runs)):
                _, engine, feed = runs[which]
                start_ns = time.perf_counter_ns()
                engine.run(feed)
                times[which] = time.perf_counter_ns() - start_ns
    medians_ns = np.median(times_ns[1:], axis=0)  # The first round is the warm-up.
    gops = [shape.operations / ns for (shape, *_), ns in zip(runs, medians_ns, strict=True)]
    return {
        shape: (gops[2 * number], gops[2 * number + 1])
        for number, (shape, *_) in enumerate(runs[::2])
    }


def _model(shape: Product, element: int) -> onnx.ModelProto:
    """Write one product with a constant matrix, in the form that is quickest."""
    numbers = np.arange(shape.depth * shape.columns) % 251 - 125
    matrix = numbers.reshape(shape.depth, shape.columns)
    is_integer = element == TensorProto.UINT8
    constants = [
        numpy_helper.from_array(matrix.astype(np.int8 if is_integer else np.float32), "matrix")
    ]
    if is_integer:
        constants.append(numpy_helper.from_array(np.array(128, np.uint8), "zero"))
    kind = "MatMulInteger" if is_integer else "MatMul"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(kind, ["rows", *(each.name for each in constants)], ["product"], kind)],
        "product",
        [value("rows", element, (shape.rows, shape.depth))],
        [
            value(
                "product",
                TensorProto.INT32 if is_integer else TensorProto.FLOAT,
                (shape.rows, shape.columns),
            )
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
