"""TensorRT-RTX, the same engine under its other name."""

from __future__ import annotations

from pathlib import Path

from ..spec import StageSpec
from .tensorrt import TensorRtEngine, open_engine_of

__all__ = ["open_graph"]


def open_graph(
    graph: Path, stage: StageSpec, *, device: str, threads: int | None
) -> TensorRtEngine:
    """Open the engine that `saymask build --target rtx` compiled; see `tensorrt.open_graph`."""
    return open_engine_of("tensorrt_rtx", graph, stage, device=device)
