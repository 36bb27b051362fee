"""Pictures with phrases, and masks where the truth is known: what calibration and the gate look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..kernels import rle
from ..runtime.errors import SourceError
from ..runtime.sources import Still

__all__ = ["PHRASES_FILE", "Sample", "read_samples"]

PHRASES_FILE = "phrases.jsonl"


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame and what is said about it."""

    frame: np.ndarray
    """(H, W, 3) uint8 RGB."""
    texts: tuple[str, ...]
    """Phrases."""
    tasks: tuple[str, ...]
    """Task of each phrase; "single" where the file names none."""
    masks: np.ndarray | None
    """(phrases, H, W) bool truth, None where the file gives none."""


def read_samples(folder: Path, *, limit: int | None = None) -> tuple[Sample, ...]:
    """Read a folder with pictures and a `phrases.jsonl`, as `saymask world stills` writes it.

    A line has "image" (path in the folder) and "text", and may have "task" and "rle" (COCO).

    Args:
        folder: Where they are.
        limit: Most pictures to read.

    Raises:
        SourceError: The folder, a picture or a line cannot be read.
    """
    path = folder / PHRASES_FILE
    lines: dict[str, list[Mapping[str, Any]]] = {}
    try:
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            if row["image"] in lines or limit is None or len(lines) < limit:
                lines.setdefault(row["image"], []).append(row)
            row["text"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"samples are a folder with {PHRASES_FILE}, a line of JSON with image and text for each "
            f"phrase; {path} is not so: {error!r}; write one, or draw one with: saymask world stills"
        ) from error
    return tuple(_sample(folder / image, rows) for image, rows in lines.items())


def _sample(image: Path, rows: Sequence[Mapping[str, Any]]) -> Sample:
    frame = next(Still(str(image)).frames()).image_hwc
    has_truth = all("rle" in row for row in rows)
    return Sample(
        frame=frame,
        texts=tuple(row["text"] for row in rows),
        tasks=tuple(row.get("task", "single") for row in rows),
        masks=np.stack([rle.decode(row["rle"]) for row in rows]) if has_truth else None,
    )
