"""Pictures with phrases, and masks where the truth is known, to calibrate and judge on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        SourceError: The folder, a picture or a line cannot be read, or there is no line.
    """
    path = folder / PHRASES_FILE
    said: dict[Path, list[_Phrase]] = {}
    try:
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            picture = folder / row["image"]
            if picture in said or limit is None or len(said) < limit:
                mask = rle.decode(row["rle"]) if "rle" in row else None
                phrase = _Phrase(row["text"], row.get("task", "single"), mask)
                said.setdefault(picture, []).append(phrase)
        if not said:
            raise ValueError("it has no line")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"samples are a folder with {PHRASES_FILE}, a line of JSON with image and text for "
            f"each phrase; {path} is not so: {error!r}; write one, or draw one with: "
            "saymask world stills"
        ) from error
    return tuple(_sample(picture, phrases) for picture, phrases in said.items())


@dataclass(frozen=True, slots=True)
class _Phrase:
    """One line of the file."""

    text: str
    task: str
    mask: np.ndarray | None


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
