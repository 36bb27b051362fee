"""A quantized graph beside FP32, layer by layer: which layer departs first, and which makes NaN."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ..runtime.errors import UsageError
from .qdq import runnable
from .segments import Line, run

__all__ = ["Agreement", "LayerReport", "LayerRow", "compare_layers", "shared_layers"]

_MIB = 2**20


@dataclass(slots=True)
class Agreement:
    """How far arrays are from what they should be, each pair taken as a part of one long vector.

    Places where the expected value is not finite, such as masked logits, are left out.
    """

    own: float = 0.0
    """Square of what was found."""
    other: float = 0.0
    """Square of what was expected."""
    product: float = 0.0
    """Inner product of both."""
    max_abs: float = 0.0
    """Largest absolute difference of two elements."""
    fault: str = ""
    """"NaN" or "infinity" where that was found for a finite number, else empty."""

    def add(self, found: np.ndarray, expected: np.ndarray) -> None:
        """Take in two float arrays of one shape."""
        is_finite = np.isfinite(expected)
        ours, theirs = (each[is_finite].astype(np.float64) for each in (found, expected))
        if not np.isfinite(ours).all():
            self.fault = "NaN" if np.isnan(ours).any() else self.fault or "infinity"
            return
        self.own += float(ours @ ours)
        self.other += float(theirs @ theirs)
        self.product += float(ours @ theirs)
        self.max_abs = max(self.max_abs, float(np.abs(ours - theirs).max(initial=0.0)))

    @property
    def cosine(self) -> float:
        """Cosine between both, in [-1, 1]; two vectors of zeros are alike, NaN where one has it."""
        if self.fault:
            return float("nan")
        if self.own == self.other == 0:
            return 1.0
        return self.product / math.sqrt(self.own * self.other) if self.own and self.other else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """What one node returns, beside FP32."""

    node: str
    """Name of the node."""
    op_type: str
    """Its operator."""
    tensor: str
    """Name of what it returns."""
    cosine: float
    """Over all feeds; NaN where there is a fault."""
    max_abs: float
    """Largest absolute difference of two elements, of the feeds without a fault."""
    fault: str
    """See `Agreement.fault`."""

    def __str__(self) -> str:
        """Say it in one line of columns."""
        name = f"{self.node} ({self.op_type})"
        return f"{self.cosine:9.6f} {self.max_abs:10.3g} {name} {self.fault}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """All layers that both graphs have."""

    rows: tuple[LayerRow, ...]
    """In the order in which FP32 runs them."""
    floor: float
    """Least cosine that counts as agreement."""

    @property
    def first_departure(self) -> LayerRow | None:
        """The first layer below the floor, a fault included; None where all agree."""
        return next((row for row in self.rows if not row.cosine >= self.floor), None)

    @property
    def first_fault(self) -> LayerRow | None:
        """The first layer that makes NaN or infinity of finite numbers; None where none does."""
        return next((row for row in self.rows if row.fault), None)

    def lines(self) -> tuple[str, ...]:
        """Return a table with one line a layer, and what was found in the last lines."""
        below, fault = self.first_departure, self.first_fault
        found = (
            f"the first layer below cosine {self.floor:g} is {below.node} ({below.op_type}), with "
            f"{below.cosine:.6f}"
            if below
            else f"all {len(self.rows)} layers have a cosine of at least {self.floor:g}"
        )
        ends = [f"the first layer to make {fault.fault} is {fault.node}"] if fault else []
        header = f"{'cosine':>9} {'max abs':>10} layer"
        return (header, *map(str, self.rows), found, *ends)


def compare_layers(
    fp32: onnx.ModelProto,
    quantized: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    floor: float = 0.99,
    threads: int = 1,
    memory_mib: int = 1024,
) -> LayerReport:
    """Run two graphs over real data and compare every float tensor that has one name in both.

    The graphs run once for each group of tensors that fit into memory, up to the group's last node.
    Nodes whose outputs are looked at are not fused, so numbers are rounded where Q/DQ says so,
    whatever an engine makes of the graph.

    Args:
        fp32: Graph with names for all nodes.
        quantized: The same network with Q/DQ, INT8 or FP8; see `symmetric`, `static`, `modelopt`.
        feeds: Real inputs by name.
        floor: Least cosine that counts as agreement, in [-1, 1].
        threads: Threads of one operator.
        memory_mib: What the tensors of both graphs may take at once; one alone may take more.

    Raises:
        EngineError: ONNX Runtime refuses a graph or a feed.
        UsageError: There is no feed, or no tensor has one name in both.
    """
    if not feeds:
        raise UsageError("layers are compared on real inputs; got none; give at least one feed")
    with tempfile.TemporaryDirectory() as name:
        reference = _line(fp32, Path(name, "fp32"))
        other = _line(runnable(quantized), Path(name, "quantized"))
        shared = _shared(reference, quantized)
        sizes = reference.measure(feeds[0], threads=threads)
        rows: list[LayerRow] = []
        for group in _groups(shared, sizes, memory_mib * _MIB // 2):
            agreements = _compare(reference.to(group), other.to(group), feeds, threads=threads)
            rows += [_row(reference.maker(each), each, agreements[each]) for each in group]
    return LayerReport(rows=tuple(rows), floor=floor)


def shared_layers(fp32: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the float tensors that have one name in two graphs, with the nodes that make them.

    Args:
        fp32: Graph with names for all nodes.
        quantized: The same network in small numbers.

    Returns:
        Name -> node of `fp32`, in the order in which it runs.

    Raises:
        UsageError: No tensor has one name in both.
    """
    with tempfile.TemporaryDirectory() as name:
        reference = _line(fp32, Path(name, "fp32"))
        return {each: reference.maker(each) for each in _shared(reference, quantized)}


def _shared(reference: Line, quantized: onnx.ModelProto) -> list[str]:
    made = {name for node in quantized.graph.node for name in node.output}
    shared = [each for each in reference.made if each in made and reference.is_float(each)]
    if not shared:
        raise UsageError(
            "graphs are compared by the names of their tensors; these share none; quantize "
            "the FP32 graph that is given"
        )
    return shared


def _line(model: onnx.ModelProto, folder: Path) -> Line:
    """Return the nodes that lead to the outputs of a graph, whose weights go into a new folder."""
    folder.mkdir()
    return Line.of(model, [value.name for value in model.graph.output], folder)


def _groups(names: Sequence[str], sizes: Mapping[str, int], most_bytes: int) -> Iterator[list[str]]:
    """Yield consecutive names whose tensors fit together."""
    group: list[str] = []
    held = 0
    for name in names:
        if group and held + sizes[name] > most_bytes:
            yield group
            group, held = [], 0
        group.append(name)
        held += sizes[name]
    yield group


def _compare(
    fp32: Line, quantized: Line, feeds: Sequence[Mapping[str, np.ndarray]], *, threads: int
) -> dict[str, Agreement]:
    """Run two lines over all feeds and compare what they show."""
    engines = [
        line.open(line.part(0, len(line.nodes)), threads=threads) for line in (fp32, quantized)
    ]
    agreements = {name: Agreement() for name in fp32.shown}
    for feed in feeds:
        expected, found = (run(engine, feed) for engine in engines)
        for name, agreement in agreements.items():
            agreement.add(found[name], expected[name])
    return agreements


def _row(node: onnx.NodeProto, tensor: str, agreement: Agreement) -> LayerRow:
    return LayerRow(
        node=node.name,
        op_type=node.op_type,
        tensor=tensor,
        cosine=agreement.cosine,
        max_abs=agreement.max_abs,
        fault=agreement.fault,
    )
