"""What passes through the engines while real frames are segmented: what calibration looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..runtime.engine import Engine
from ..runtime.spec import StageSpec

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

    runs: dict[str, list[Run]] = field(default_factory=dict)
    """Stage name -> its runs in order."""

    def watch(self, engine: Engine) -> Engine:
        """Return an engine that does as `engine` does and is recorded."""
        return _Watched(engine, self.runs.setdefault(engine.stage.name, []))

    def feeds(self, stage: str) -> list[Mapping[str, np.ndarray]]:
        """Return the inputs of every run of a stage."""
        return [run.inputs for run in self.runs[stage]]


class _Watched:
    """An engine and the list that its runs go to."""

    def __init__(self, engine: Engine, runs: list[Run]) -> None:
        self._engine = engine
        self._runs = runs

    @property
    def stage(self) -> StageSpec:
        return self._engine.stage

    @property
    def device(self) -> str:
        return self._engine.device

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Copies, as one array of ONNX Runtime's keeps all memory alive that its session ever took.
        outputs = {name: np.array(array) for name, array in self._engine.run(inputs).items()}
        self._runs.append(Run(dict(inputs), outputs))
        return outputs

    def close(self) -> None:
        self._engine.close()
