"""What passes through the engines while real frames are segmented: what calibration looks at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..runtime.engine import Engine
from ..runtime.prompt import prompts_from
from ..runtime.spec import StageSpec
from ..runtime.systems import System
from .arrays import StoredArrays
from .cache import data_sha256
from .samples import Sample

__all__ = ["Recorder", "Run", "output_folders"]


class _Enough(Exception):  # noqa: N818 - nothing failed
    """A brief recorder has what it wants of a segmentation."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one stage."""

    inputs: Mapping[str, np.ndarray]
    """Arrays by name, as the stage's spec describes them."""
    outputs: Mapping[str, np.ndarray]
    """Likewise."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """Keeps the runs of the engines it watches, so that each stage sees real upstream outputs."""

    folder: Path | None = None
    """Takes the arrays, which are then read when they are looked at; None keeps them in memory.
    (SAM ViT-H's image stage has 16 MiB of them for each picture.) A run that lies there already, of
    an earlier call that was interrupted, is not computed again; so the folder belongs to the graphs
    of one bundle, see `cache.claim`."""
    runs: dict[str, list[Run]] = field(default_factory=dict)
    """Stage name -> its runs in order."""
    is_brief: bool = False
    """Whether each segmentation ends where its first stage has its inputs: then that run's outputs
    are still to come, from whoever looks at the stage. Needs a folder."""

    def record(self, system: System, samples: Iterable[Sample]) -> None:
        """Segment samples and keep what the engines do, one picture in memory at a time."""
        watched = system.with_engines(self.watch)
        for sample in samples:
            with suppress(_Enough):
                watched.segment(sample.frame, prompts_from(sample.texts))

    def watch(self, engine: Engine) -> Engine:
        """Return an engine that does as `engine` does and is recorded."""
        name = engine.stage.name
        folder = self.folder / name if self.folder else None
        return _Watched(engine, self.runs.setdefault(name, []), folder, self.is_brief)

    def feeds(self, stage: str) -> list[Mapping[str, np.ndarray]]:
        """Return the inputs of every run of a stage."""
        return [run.inputs for run in self.runs[stage]]


def output_folders(runs: Sequence[Run]) -> tuple[Path, ...]:
    """Return where the outputs of `runs` lie or are to come; nothing where they are in memory."""
    return tuple(run.outputs.folder for run in runs if isinstance(run.outputs, StoredArrays))


class _Watched:
    """An engine, the list that its runs go to, and the folder that takes their arrays."""

    def __init__(
        self, engine: Engine, runs: list[Run], folder: Path | None, is_brief: bool
    ) -> None:
        self._engine = engine
        self._runs = runs
        self._folder = folder
        self._is_brief = is_brief

    @property
    def stage(self) -> StageSpec:
        return self._engine.stage

    @property
    def device(self) -> str:
        return self._engine.device

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._folder is None:
            run = Run(dict(inputs), self._computed(inputs))
        else:
            run = self._kept(inputs, self._folder)
        self._runs.append(run)
        if self._is_brief:
            raise _Enough
        return dict(run.outputs)

    def close(self) -> None:
        self._engine.close()

    def _computed(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Copies, as one array of ONNX Runtime's keeps all memory alive that its session ever took.
        return {name: np.array(array) for name, array in self._engine.run(inputs).items()}

    def _kept(self, inputs: Mapping[str, np.ndarray], folder: Path) -> Run:
        """Keep a run on disk, or find it there."""
        place = folder / f"{len(self._runs):06d}-{data_sha256([inputs])[:16]}"
        taken, made = StoredArrays(place / "inputs"), StoredArrays(place / "outputs")
        if not taken.are_there:
            StoredArrays.write(taken.folder, inputs)
        if not made.are_there and not self._is_brief:
            StoredArrays.write(made.folder, self._computed(inputs))
        return Run(taken, made)
