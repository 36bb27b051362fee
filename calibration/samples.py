"""Pictures with phrases, and masks where the truth is known, to calibrate and judge on."""

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

__all__ = ["PHRASES_FILE", "Sample", "read_samples", "sampled_pictures"]

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


def sampled_pictures(folder: Path) -> tuple[Path, ...]:
    """List the pictures that a folder's `phrases.jsonl` speaks of, in its order.

    Raises:
        SourceError: The file cannot be read, or there is no line.
    """
    return tuple(_rows(folder))


def read_samples(
    folder: Path, *, limit: int | None = None, pictures: Sequence[Path] | None = None
) -> tuple[Sample, ...]:
    """Read a folder with pictures and a `phrases.jsonl`, as `saymask world stills` writes it.

    A line has "image" (path in the folder) and "text", and may have "task" and the mask as "rle" or
    "segmentation" (COCO).

    Args:
        folder: Where they are.
        limit: Most pictures to read.
        pictures: Those of `sampled_pictures` to read; None reads all.

    Raises:
        SourceError: The folder, a picture or a line cannot be read, or there is no line.
    """
    rows = _rows(folder)
    chosen = list(rows if pictures is None else pictures)[:limit]
    try:
        said = {picture: [_phrase(row) for row in rows[picture]] for picture in chosen}
    except (ValueError, KeyError, TypeError) as error:
        raise _no_samples(folder, error) from error
    return tuple(_sample(picture, phrases) for picture, phrases in said.items())


@dataclass(frozen=True, slots=True)
class _Phrase:
    """One line of the file."""

    text: str
    task: str
    mask: np.ndarray | None


def _rows(folder: Path) -> dict[Path, list[Mapping[str, Any]]]:
    """Read the lines about each picture."""
    rows: dict[Path, list[Mapping[str, Any]]] = {}
    try:
        for line in (folder / PHRASES_FILE).read_text("utf-8").splitlines():
            row = json.loads(line)
            rows.setdefault(folder / row["image"], []).append(row)
        if not rows:
            raise ValueError("it has no line")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_samples(folder, error) from error
    return rows


def _phrase(row: Mapping[str, Any]) -> _Phrase:
    mask = row.get("rle", row.get("segmentation"))
    return _Phrase(
        row["text"], row.get("task", "single"), None if mask is None else rle.decode(mask)
    )


def _no_samples(folder: Path, error: Exception) -> SourceError:
    return SourceError(
        f"samples are a folder with {PHRASES_FILE}, a line of JSON with image and text for "
        f"each phrase; {folder / PHRASES_FILE} is not so: {error!r}; write one, or draw one with: "
        "saymask world stills"
    )


def _sample(picture: Path, phrases: Sequence[_Phrase]) -> Sample:
    frame = next(Still(str(picture)).frames()).image_hwc
    masks = [phrase.mask for phrase in phrases if phrase.mask is not None]
    for mask in masks:
        if mask.shape != frame.shape[:2]:
            raise SourceError(
                f"a mask must have its picture's size {frame.shape[:2]}; one of {picture} has "
                f"{mask.shape}; write the samples again"
            )
    return Sample(
        frame=frame,
        texts=tuple(phrase.text for phrase in phrases),
        tasks=tuple(phrase.task for phrase in phrases),
        masks=np.stack(masks) if len(masks) == len(phrases) else None,
    )
