"""Candidates of one stage measured side by side: time, difference from FP32, integer kernels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.backends.onnxruntime import OnnxEngine
from ..runtime.errors import UsageError
from .quantize import Candidate
from .session import executed_ops, open_model

__all__ = ["INTEGER_KERNELS", "Difference", "Trial", "measure"]

INTEGER_KERNELS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearConv")
"""What ONNX Runtime must have made of the INT8 nodes of a plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One output beside FP32's, over all feeds."""

    output: str
    """Name of the output."""
    max_abs: float
    """Largest absolute difference of two elements."""
    cosine: float
    """Cosine between both outputs, each taken as one long vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate as measured beside the others."""

    candidate: Candidate
    """What was measured."""
    median_ms: float
    """Median of the interleaved runs in milliseconds; see `measure`."""
    differences: tuple[Difference, ...]
    """Every output beside FP32's."""
    integer_kernels: int
    """Nodes that ONNX Runtime computes in integers."""

    @property
    def least_cosine(self) -> float:
        """Cosine of the output that differs most from FP32's."""
        return float(np.min([difference.cosine for difference in self.differences]))


def measure(
    candidates: Sequence[Candidate],
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    threads: int,
    rounds: int,
) -> tuple[Trial, ...]:
    """Time candidates in one process and compare their outputs with FP32's.

    All run once in every round, in an order drawn anew. One thread is timed by its own processor
    time, which other processes cannot stretch; several are timed by the clock on the wall and
    should have the machine for themselves.

    Args:
        candidates: From `quantize.candidates`; one of them is FP32.
        feeds: Real inputs by name.
        threads: Threads of one operator.
        rounds: How often every candidate is timed.

    Raises:
        UsageError: FP32, feeds or rounds are missing.
        EngineError: ONNX Runtime refuses a graph or a feed.
    """
    names = [candidate.precision for candidate in candidates]
    if "fp32" not in names or not feeds or rounds < 1:
        raise UsageError(
            f"a comparison needs the candidate fp32, a feed and a round; got {', '.join(names)}, "
            f"{len(feeds)} feeds and {rounds} rounds"
        )
    engines = [open_model(candidate.model, threads=threads) for candidate in candidates]
    differences = _compare(engines, engines[names.index("fp32")], feeds)
    times_ms = np.empty((rounds, len(engines)))
    generator = np.random.default_rng(0)
    clock_ns = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    for number in range(rounds):
        for which in generator.permutation(len(engines)):
            start_ns = clock_ns()
            engines[which].run(feeds[number % len(feeds)])
            times_ms[number, which] = (clock_ns() - start_ns) / 1e6
    return tuple(
        Trial(
            candidate=candidate,
            median_ms=float(np.median(times_ms[:, which])),
            differences=differences[which],
            integer_kernels=_integer_kernels(candidate),
        )
        for which, candidate in enumerate(candidates)
    )


def _integer_kernels(candidate: Candidate) -> int:
    if not candidate.plan:
        return 0
    executed = executed_ops(candidate.model)
    return sum(executed[name] for name in INTEGER_KERNELS)


def _compare(
    engines: Sequence[OnnxEngine], fp32: OnnxEngine, feeds: Sequence[Mapping[str, np.ndarray]]
) -> list[tuple[Difference, ...]]:
    """Run every engine over all feeds beside FP32."""
    outputs = [tensor.name for tensor in fp32.stage.outputs]
    # For each engine and output: its square, FP32's square, their product, the largest difference.
    sums = np.zeros((len(engines), len(outputs), 4))
    for feed in feeds:
        expected = fp32.run(feed)
        for which, engine in enumerate(engines):
            found = engine.run(feed)
            for number, name in enumerate(outputs):
                ours, theirs = (each[name].ravel().astype(np.float64) for each in (found, expected))
                sums[which, number, :3] += ours @ ours, theirs @ theirs, ours @ theirs
                largest = np.abs(ours - theirs).max(initial=0.0)
                sums[which, number, 3] = np.maximum(sums[which, number, 3], largest)
    return [
        tuple(
            Difference(output=name, max_abs=float(largest), cosine=_cosine(own, other, product))
            for name, (own, other, product, largest) in zip(outputs, rows, strict=True)
        )
        for rows in sums
    ]


def _cosine(own: float, other: float, product: float) -> float:
    """Cosine from two squares and a product; two vectors of zeros are alike."""
    if own == other == 0:
        return 1.0
    return float(product / np.sqrt(own * other)) if own and other else 0.0
