"""A graph as a line of nodes that is run part by part, so that inner tensors fit into memory.

To look at an inner tensor is to hold it until the run ends, and all those of a large encoder take
tens of GiB. So the line is cut: a part takes what the parts before it made, shows its own tensors
and hands on what the later parts read. However many parts there are, each node runs once, and a
part opens with its own weights alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from ..runtime.backends.onnxruntime import OnnxEngine, open_graph
from ..runtime.errors import UsageError
from ..runtime.spec import StageSpec
from .extents import extents_of
from .graph import Graph
from .session import tensors_from_values
from .storage import save

__all__ = ["Line", "Part", "feed_bytes", "run"]

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Consecutive nodes of a line."""

    start: int
    """Number of its first node."""
    end: int
    """Number of the next part's first node."""
    shown: tuple[str, ...]
    """Tensors to look at that it makes."""
    carried: tuple[str, ...]
    """Tensors made up to here that later parts read; inputs of the graph are not among them."""


class Line:
    """The nodes of a graph that lead to some tensors, in order, with the weights in one file."""

    def __init__(
        self, bare: onnx.ModelProto, tensors: Iterable[str], folder: Path, kept: Iterable[str] = ()
    ) -> None:
        """Take a graph whose weights lie in `folder`; see `of`."""
        self._folder = folder
        self._model = bare
        values = (*bare.graph.value_info, *bare.graph.output, *bare.graph.input)
        self._values = {value.name: value for value in values}
        graph, wanted = Graph(bare), set(tensors)
        self._constants = set(graph.constants)
        self.nodes = _leading_to(graph.nodes, wanted.union(kept))
        made = {name: number for number, node in enumerate(self.nodes) for name in node.output}
        self._made = {name: number for name, number in made.items() if name}
        self.shown = tuple(name for name in self._made if name in wanted)
        self._last_read = {
            name: number for number, node in enumerate(self.nodes) for name in node.input
        } | dict.fromkeys(kept, len(self.nodes))

    @classmethod
    def of(
        cls,
        model: onnx.ModelProto,
        tensors: Collection[str],
        folder: Path,
        *,
        keeps_outputs: bool = False,
    ) -> Line:
        """Write a graph's weights into `folder`, once for all parts.

        Args:
            model: FP32 graph.
            tensors: Names of tensors to look at; those that are inputs of the graph need no node.
            folder: Where the weights and the parts lie; is made, and must outlive the line.
            keeps_outputs: Whether the graph's outputs, made by nodes all, are carried to the end.

        Raises:
            UsageError: The graph has no such tensor.
        """
        made = {name for node in model.graph.node for name in node.output}
        stated = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
        given = {value.name for value in model.graph.input}
        if not made | given >= set(tensors):
            raise UsageError(
                "calibrated tensors must be of the graph; it has no "
                f"{', '.join(sorted(set(tensors) - made - given))}; name those of its nodes"
            )
        kept = [value.name for value in model.graph.output] if keeps_outputs else []
        names = dict.fromkeys((*(name for name in tensors if name not in given), *kept))
        outputs = [stated.get(name) or _real(name) for name in names]
        folder.mkdir(exist_ok=True)
        path, *_ = save(model, folder / "whole.onnx", outputs=outputs, inline_bytes=0)
        bare = onnx.load(path, load_external_data=False)
        return cls(shape_inference.infer_shapes(bare), tensors, folder, kept)

    def to(self, tensors: Iterable[str]) -> Line:
        """Return the line of the same graph that leads to other tensors."""
        return Line(self._model, tensors, self._folder)

    @property
    def made(self) -> tuple[str, ...]:
        """Names of all tensors that its nodes make, in order."""
        return tuple(self._made)

    def maker(self, name: str) -> onnx.NodeProto:
        """Return the node that makes a tensor."""
        return self.nodes[self._made[name]]

    def is_float(self, name: str) -> bool:
        """Tell whether a tensor is known to be float32."""
        return name in self._values and _element(self._values[name]) == TensorProto.FLOAT

    def part(self, start: int, end: int) -> Part:
        """Return the nodes from `start` up to, without, `end`."""
        return Part(
            start=start,
            end=end,
            shown=tuple(name for name in self.shown if start <= self._made[name] < end),
            carried=tuple(
                name for name, at in self._made.items() if at < end <= self._last_read.get(name, -1)
            ),
        )

    def open(self, part: Part, *, threads: int) -> OnnxEngine:
        """Open a part as an engine whose outputs are what it shows and what it makes and carries.

        Raises:
            EngineError: ONNX Runtime refuses it.
        """
        wanted = [n for n in part.carried if self._made[n] >= part.start]
        names = dict.fromkeys((*part.shown, *wanted))
        return self._open(
            [self._values.get(name) or _real(name) for name in names], part, threads=threads
        )

    def measure(self, feed: Mapping[str, np.ndarray], *, threads: int) -> dict[str, int]:
        """Return how many bytes each tensor takes in a run; 0 stands for what cannot be known.

        Extents that do not follow from those of the inputs are asked of one run of the whole graph,
        which holds no tensor longer than any run does.
        """
        extents = extents_of(self._model, feed)
        unknown = [n for n in self._made if n in self._values and not _is_known(extents.get(n))]
        shapes = {name: extents[name] for name in self._made if _is_known(extents.get(name))}
        if unknown:
            # Backwards, as ONNX Runtime begins with the last leaf: then each tensor is asked, and
            # let go, as soon as it is there.
            asked = [
                helper.make_node("Shape", [name], [f"extents of {name}"], f"extents of {name}")
                for name in reversed(unknown)
            ]
            values = [
                helper.make_tensor_value_info(node.output[0], TensorProto.INT64, [None])
                for node in asked
            ]
            whole = self.part(0, len(self.nodes))
            engine = self._open(values, whole, threads=threads, more=asked)
            found = run(engine, feed)
            shapes |= {n: tuple(found[f"extents of {n}"].tolist()) for n in unknown}
        return {
            name: _bytes(self._values.get(name), shapes[name]) if name in shapes else 0
            for name in self._made
        }

    def cut(self, start: int, sizes: Mapping[str, int], most_bytes: int) -> Part:
        """Return the part from `start` that shows much and carries little.

        What a run takes in, shows and hands on together stays within `most_bytes`.

        Args:
            start: Number of its first node.
            sizes: From `measure`.
            most_bytes: What one run may hold at most, beyond the weights and its own scratch.

        Raises:
            UsageError: Not even one node fits.
        """
        carried, shown = self._carried_bytes(sizes), self._shown_bytes(sizes)
        hidden = self._carried_bytes({name: sizes[name] for name in sizes.keys() - self.shown})
        ends = np.arange(start + 1, len(self.nodes) + 1)
        gains = shown[ends] - shown[start]
        costs = carried[start] + gains + hidden[ends]
        fitting = costs <= most_bytes
        if not fitting.any():
            need = -(-int(costs.min()) // _MIB)
            raise UsageError(
                f"calibration must hold what one node takes and makes; node "
                f"{self.nodes[start].name!r} needs {need} MiB of {most_bytes // _MIB}; "
                f"give --calib-mem-mib {need} or more"
            )
        if fitting[-1]:
            return self.part(start, len(self.nodes))
        worthy = fitting & (2 * gains >= gains[fitting].max())
        least = carried[ends][worthy].min()
        return self.part(start, int(ends[worthy & (carried[ends] == least)][-1]))

    def _open(
        self,
        outputs: Sequence[onnx.ValueInfoProto],
        part: Part,
        *,
        threads: int,
        more: Sequence[onnx.NodeProto] = (),
    ) -> OnnxEngine:
        graph = Graph(self._model)
        graph.nodes = [*self.nodes[part.start : part.end], *more]
        model = graph.model(outputs)
        made = {name for node in model.graph.node for name in node.output}
        read = dict.fromkeys(name for node in model.graph.node for name in node.input if name)
        del model.graph.input[:]
        model.graph.input.extend(
            self._values[name] for name in read if name not in made | self._constants
        )
        stage = StageSpec(
            name=f"{self._model.graph.name} {part.start}-{part.end}",
            file="part.onnx",
            inputs=tensors_from_values(model.graph.input),
            outputs=tensors_from_values(outputs),
            precision="",
            reason="",
        )
        path = self._folder / stage.file
        path.write_bytes(model.SerializeToString())
        return open_graph(path, stage, device="cpu", threads=threads)

    def _shown_bytes(self, sizes: Mapping[str, int]) -> np.ndarray:
        """Return the bytes to look at that lie before each node."""
        found = np.zeros(len(self.nodes) + 1)
        for name in self.shown:
            found[self._made[name] + 1] += sizes[name]
        return found.cumsum()

    def _carried_bytes(self, sizes: Mapping[str, int]) -> np.ndarray:
        """Return the bytes that a cut before each node carries; infinite where one is unknown."""
        change = np.zeros(len(self.nodes) + 1)
        unknown = np.zeros(len(self.nodes) + 1)
        for name in sizes:
            number = self._made[name]
            last = self._last_read.get(name, number)
            kind = change if sizes[name] else unknown
            kind[number + 1] += sizes[name] or 1
            if last < len(self.nodes):
                kind[last + 1] -= sizes[name] or 1
        return np.where(unknown.cumsum() > 0, np.inf, change.cumsum())


def feed_bytes(feed: Mapping[str, np.ndarray]) -> int:
    """Return how many bytes the arrays of a feed hold."""
    return sum(array.nbytes for array in feed.values())


def run(engine: OnnxEngine, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a part on those of `arrays` that it takes."""
    return engine.run({tensor.name: arrays[tensor.name] for tensor in engine.stage.inputs})


def _leading_to(nodes: Sequence[onnx.NodeProto], tensors: Iterable[str]) -> list[onnx.NodeProto]:
    wanted, kept = set(tensors), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _real(name: str) -> onnx.ValueInfoProto:
    """Describe a tensor that shape inference knows nothing about: only real ones have ranges."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _element(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type


def _is_known(extents: tuple[int, ...] | None) -> bool:
    return extents is not None and 0 not in extents


def _bytes(value: onnx.ValueInfoProto | None, shape: Sequence[int]) -> int:
    if value is None or not value.type.tensor_type.HasField("shape"):
        return 0  # Such a tensor cannot be an input, so no cut may carry it.
    return int(np.prod(shape)) * helper.tensor_dtype_to_np_dtype(_element(value)).itemsize
