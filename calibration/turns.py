"""Engines that take turns: of several large ones only the one that runs is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from ..runtime.engine import Engine
from ..runtime.spec import StageSpec
from .graph import constant_bytes
from .memory import give_back

__all__ = ["LARGE_BYTES", "Turns", "weight_bytes"]

LARGE_BYTES = 2**29
"""Weights from which on a graph takes turns; with what it computes, SAM ViT-H takes 7.4 GiB."""


class Turns:
    """Room for one large engine."""

    def __init__(self) -> None:
        """Make the room; nothing is in it."""
        self._inside: _Waiting | None = None

    def take(self, model: onnx.ModelProto, open_engine: Callable[[], Engine]) -> Engine:
        """Return an engine of `model`: open, or where it is large, one that opens when it runs.

        Args:
            model: What `open_engine` opens.
            open_engine: Is called again each time another large engine ran in between.
        """
        if weight_bytes(model) < LARGE_BYTES:
            return open_engine()
        return _Waiting(self, open_engine)

    def is_ready(self, engine: Engine) -> bool:
        """Say whether a run of `engine` would begin at once."""
        return not isinstance(engine, _Waiting) or engine is self._inside

    def enter(self, engine: _Waiting | None) -> None:
        """Let `engine` in, and out whatever is inside."""
        if self._inside is not engine:
            if self._inside:
                self._inside.leave()
            self._inside = engine


class _Waiting:
    """An engine that is open while it has the room."""

    def __init__(self, turns: Turns, open_engine: Callable[[], Engine]) -> None:
        self._turns, self._open = turns, open_engine
        self._engine: Engine | None = None

    @property
    def stage(self) -> StageSpec:
        return self._opened().stage

    @property
    def device(self) -> str:
        return self._opened().device

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Copies, as one array of ONNX Runtime's keeps all memory alive that its session ever took.
        return {name: np.array(array) for name, array in self._opened().run(inputs).items()}

    def close(self) -> None:
        if self._engine:
            self._turns.enter(None)

    def leave(self) -> None:
        if self._engine:
            self._engine.close()
            self._engine = None

    def _opened(self) -> Engine:
        self._turns.enter(self)
        if self._engine is None:
            give_back()
            self._engine = self._open()
        return self._engine


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return how many bytes a model's constants take."""
    return sum(map(constant_bytes, model.graph.initializer))
