"""What the user asks of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["FORCEABLE", "PRECISIONS", "ExportRecipe"]

PRECISIONS = ("fp32", "int8")
FORCEABLE = ("fp32", "int8-static", "int8-dynamic")
"""Precisions of `calibration.quantize.Candidate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecipe:
    """Everything that decides what a bundle will be."""

    system: str
    """Key of `systems.SYSTEMS`."""
    out: Path
    """Folder of the bundle."""
    checkpoint: str | None = None
    """Folder or name of a checkpoint; None is the system's miniature."""
    switches: tuple[tuple[str, str], ...] = ()
    """Pairs of a switch and its value, for example "preprocess"; the others are as released."""
    precision: str = "fp32"
    """One of `PRECISIONS`: the lowest that a stage may take."""
    samples: Path | None = None
    """Folder with pictures and phrases to calibrate and judge on; None is the checkpoint's own."""
    sample_limit: int = 48
    """Most pictures to take from it."""
    max_iou_drop: float = 1.0
    """Most points of gIoU, 0 to 100, that the bundle may lose against FP32."""
    forced: str | None = None
    """One of `FORCEABLE`, which every stage that can takes whatever it costs; the others choose."""
    threads: int = 2
    """Threads of the CPU that segment the samples."""
