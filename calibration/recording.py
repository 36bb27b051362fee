"""What passes through the engines while real frames are segmented: what calibration looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..runtime.engine import Engine
from ..runtime.spec import StageSpec
from .arrays import StoredArrays
from .cache import data_sha256

__all__ = ["Recorder", "Run"]


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

    def watch(self, engine: Engine) -> Engine:
        """Return an engine that does as `engine` does and is recorded."""
        name = engine.stage.name
        folder = self.folder / name if self.folder else None
        return _Watched(engine, self.runs.setdefault(name, []), folder)

    def feeds(self, stage: str) -> list[Mapping[str, np.ndarray]]:
        """Return the inputs of every run of a stage."""
        return [run.inputs for run in self.runs[stage]]


class _Watched:
    """An engine, the list that its runs go to, and the folder that takes their arrays."""

    def __init__(self, engine: Engine, runs: list[Run], folder: Path | None) -> None:
        self._engine = engine
        self._runs = runs
        self._folder = folder

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
        return dict(run.outputs)

    def close(self) -> None:
        self._engine.close()

    def _computed(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Copies, as one array of ONNX Runtime's keeps all memory alive that its session ever took.
        return {name: np.array(array) for name, array in self._engine.run(inputs).items()}

    def _kept(self, inputs: Mapping[str, np.ndarray], folder: Path) -> Run:
        """Keep a run on disk, or find it there."""
        place = folder / f"{len(self._runs):06d}-{data_sha256([inputs])[:16]}"
        if not (place / "outputs").is_dir():
            StoredArrays.write(place / "inputs", inputs)
            StoredArrays.write(place / "outputs", self._computed(inputs))
        return Run(StoredArrays(place / "inputs"), StoredArrays(place / "outputs"))
