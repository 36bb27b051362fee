"""What the user asks of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..calibration.observers import Observer
from ..calibration.quantize import OBSERVER
from ..calibration.ranges import MEMORY_MIB

__all__ = ["FORCEABLE", "PRECISIONS", "ExportRecipe"]

PRECISIONS = ("fp32", "int8", "fp8", "int8-weights", "int4-weights")
FORCEABLE = ("fp32", "int8-static", "int8-dynamic")
"""Precisions of `calibration.quantize.Candidate` on the CPU."""


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
    target: str = "cpu"
    """What the graphs are written for: "cpu", "rtx" or "tensorrt"."""
    samples: Path | None = None
    """Folder with pictures and phrases to calibrate and judge on; None is the checkpoint's own."""
    sample_limit: int = 48
    """Most pictures to take from it."""
    max_iou_drop: float = 1.0
    """Most points of gIoU, 0 to 100, that the bundle may lose against FP32."""
    calib: str | None = None
    """A folder, glob or video to take ranges from; None takes the samples."""
    calib_images: int = 16
    """Most frames to take from it."""
    calib_phrases: Path | None = None
    """A file with a phrase a line, for pictures that come without."""
    calib_mem_mib: int = MEMORY_MIB
    """What inner tensors may take while ranges are taken; weights and scratch come on top."""
    observer: Observer = OBSERVER
    """How a range is made of a tensor's values."""
    plan: Path | None = None
    """A plan to follow instead of choosing; see `calibration.plan_file`."""
    work: Path | None = None
    """Folder to keep measurements in, so that an export that was interrupted goes on."""
    forced: str | None = None
    """One of `FORCEABLE`, which every stage that can takes whatever it costs; the others choose."""
    threads: int = 2
    """Threads of the CPU that segment the samples."""
