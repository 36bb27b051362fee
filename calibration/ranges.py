"""What values the tensors of a graph take while it runs over real data."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from types import MappingProxyType

import numpy as np
import onnx

from ..runtime.backends.onnxruntime import OnnxEngine
from ..runtime.errors import EngineError, OutputError, SaymaskError, UsageError
from .arrays import StoredArrays
from .cache import KeptHistograms, claim, data_sha256
from .faults import first_fault
from .histogram import Histogram, Range
from .memory import give_back
from .plan_file import model_sha256
from .segments import Line, Part, feed_bytes, run

__all__ = ["MEMORY_MIB", "Histogram", "Range", "observe"]

MEMORY_MIB = 1024
"""What inner tensors may take at once where nothing else is said."""

_MIB = 2**20
_KEEP_EVERY_S = 30.0
"""Counts are kept no more often: to write them after every short run would take longer than it."""


def observe(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    tensors: Iterable[str],
    *,
    threads: int = 1,
    channel_axes: Mapping[str, int] = MappingProxyType({}),
    memory_mib: int = MEMORY_MIB,
    work: Path | None = None,
    outputs: Sequence[Path] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Histogram]:
    """Run a graph over real data and look at the values of chosen tensors.

    Where these do not fit into memory at once, the graph goes part by part, each over all runs;
    what one part hands to the next lies on disk. No node runs twice.

    Args:
        model: FP32 graph.
        feeds: Inputs by name, of one run each; one is held at a time.
        tensors: Names of float tensors anywhere in the graph, its inputs included.
        threads: Threads of one operator.
        channel_axes: Those of `tensors` whose channels are told apart, each with their axis; how
            far each reaches is all that is kept of them.
        memory_mib: What the tensors of one run may hold at once; weights and scratch come on top.
        work: Folder to keep counts in twice a minute, for this graph, data and tensors alone. A
            second call goes on from there, whatever memory it may take. None keeps nothing.
        outputs: Folders, one for each feed or none at all, that what the graph returns is left in
            on the way, see `StoredArrays`. What is there stays, and nothing runs for it alone.
        say: Is told in one line each what will be done and how long it may take.

    Returns:
        Name -> histogram, for each of `tensors`.

    Raises:
        UsageError: There is no feed or tensor of that name, `work` holds something else, or one
            node's tensors take more than `memory_mib`.
        EngineError: ONNX Runtime refuses the graph or a feed, or a tensor is not finite; then the
            first node that makes it so is named.
        OutputError: There is no room on disk.
    """
    if not feeds:  # Ranges from made-up data would break a model without a sign.
        raise UsageError(
            "calibration must see real inputs; got none; give frames and phrases like those the "
            "model will meet"
        )
    histograms = {name: Histogram(channel_axis=channel_axes.get(name)) for name in tensors}
    with _folder(work) as folder:
        if work:
            claim(folder, _key(model, feeds, histograms, keeps_outputs=bool(outputs)))
        whole = KeptHistograms(folder / "whole")
        histograms, runs = whole.load(histograms)
        if runs < len(feeds):
            graph = folder / "graph"
            line = Line.of(model, histograms, graph, keeps_outputs=bool(outputs))
            _Way(line, feeds, histograms, folder, outputs, threads, memory_mib * _MIB, say).go()
            whole.save(histograms, len(feeds))
            for each in (graph, *folder.glob("part-*")):
                rmtree(each)
    return histograms


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    try:
        if work:
            yield work
        else:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
    except SaymaskError:
        raise
    except OSError as error:
        raise OutputError(
            f"calibration must keep the graph and its arrays on disk, which failed: {error}; free "
            "some space, or give --work a folder elsewhere"
        ) from error


def _key(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    histograms: Mapping[str, Histogram],
    *,
    keeps_outputs: bool,
) -> dict[str, str]:
    # Parts are known by the numbers of their nodes, and more nodes lead to the outputs.
    asked = repr(([(name, each.channel_axis) for name, each in histograms.items()], keeps_outputs))
    return {
        "graph": model_sha256(model),
        "data": data_sha256(feeds),
        "set of tensors": hashlib.sha256(asked.encode()).hexdigest(),
    }


@dataclass(frozen=True, slots=True)
class _Way:
    """The way along a line of nodes, part by part, with all runs through each."""

    line: Line
    feeds: Sequence[Mapping[str, np.ndarray]]
    histograms: dict[str, Histogram]
    folder: Path
    outputs: Sequence[Path]
    threads: int
    most_bytes: int
    say: Callable[[str], None]

    def go(self) -> None:
        parts = self._plan()
        before = None
        for number, part in enumerate(parts, start=1):
            self._run_part(part, before, f"part {number} of {len(parts)}")
            if before:
                rmtree(self._carried(before), ignore_errors=True)
            before = part
            give_back()

    def _plan(self) -> list[Part]:
        """Cut the line, and where parts of an earlier call are finished, as they were cut."""
        largest = max(range(len(self.feeds)), key=lambda number: feed_bytes(self.feeds[number]))
        sizes = self.line.measure(self.feeds[largest], threads=self.threads)
        parts: list[Part] = []
        end = len(self.line.nodes)
        while not parts or parts[-1].end < end:
            start = parts[-1].end if parts else 0
            kept = self._finished(start)
            part = kept or (
                self.line.cut(start, sizes, self.most_bytes) if end else self.line.part(0, 0)
            )
            parts.append(part)
        shown = sum(sizes[name] for name in self.line.shown)
        carried = max(sum(sizes[name] for name in part.carried) for part in parts)
        self.say(
            f"ranges of {len(self.histograms)} tensors over {len(self.feeds)} runs: "
            f"{shown / _MIB:.0f} MiB a run, in {len(parts)} x at most {self.most_bytes // _MIB} "
            f"MiB, and {2 * carried * len(self.feeds) / _MIB:.0f} MiB on disk"
        )
        return parts

    def _finished(self, start: int) -> Part | None:
        for path in sorted(self.folder.glob(f"part-{start:06d}-*")):
            part = self.line.part(start, int(path.name.split("-")[2]))
            if KeptHistograms(path).load(self._watched(part))[1] == len(self.feeds):
                return part
        return None

    def _run_part(self, part: Part, before: Part | None, title: str) -> None:
        kept = KeptHistograms(self._place(part))
        found, done = kept.load(self._watched(part))
        self.histograms.update(found)
        if done == len(self.feeds):
            return
        engine = self.line.open(part, threads=self.threads) if part.shown or part.carried else None
        kept_s = time.monotonic()
        for number in range(done, len(self.feeds)):
            start = time.monotonic()
            self._run_once(part, before, engine, number)
            if number + 1 == len(self.feeds) or time.monotonic() - kept_s >= _KEEP_EVERY_S:
                kept.save(self._watched(part), number + 1)
                kept_s = time.monotonic()
            if number == done:
                self._foretell(part, time.monotonic() - start, len(self.feeds) - done, title)

    def _run_once(
        self, part: Part, before: Part | None, engine: OnnxEngine | None, number: int
    ) -> None:
        # A function of its own, so that one run's arrays are gone when the next one's come.
        feed = self.feeds[number]
        carried = StoredArrays(self._carried(before) / f"{number:06d}") if before else {}
        arrays = {**feed, **carried}
        arrays |= run(engine, arrays) if engine else {}
        for name, histogram in self._watched(part).items():
            try:
                histogram.add(arrays[name])
            except UsageError as error:
                cause = first_fault(
                    self.line, feed, name, threads=self.threads, most_bytes=self.most_bytes
                )
                raise EngineError(f"tensor {name!r} of run {number}: {error}; {cause}") from error
        if part.carried:
            is_last = part.end == len(self.line.nodes)
            place = self.outputs[number] if is_last else self._carried(part) / f"{number:06d}"
            if not (is_last and StoredArrays(place).are_there):
                StoredArrays.write(place, {name: arrays[name] for name in part.carried})

    def _foretell(self, part: Part, took_s: float, runs: int, title: str) -> None:
        """Say how long the rest may take, if every node takes as long as this part's."""
        later = (len(self.line.nodes) - part.end) / max(part.end - part.start, 1)
        left_s = took_s * (runs - 1 + later * len(self.feeds))
        self.say(f"{title}: {took_s:.1f} s a run, about {left_s / 60:.0f} min left")

    def _watched(self, part: Part) -> dict[str, Histogram]:
        """Return the histograms that a part fills; the first one looks at the graph's inputs."""
        inputs = set(self.histograms) - set(self.line.shown) if part.start == 0 else set()
        names = inputs.union(part.shown)
        return {name: each for name, each in self.histograms.items() if name in names}

    def _place(self, part: Part) -> Path:
        return self.folder / f"part-{part.start:06d}-{part.end:06d}"

    def _carried(self, part: Part) -> Path:
        return self._place(part) / "carried"
