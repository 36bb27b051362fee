"""ReasonSeg: one picture, one JSON with questions that mean the same and polygons of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .expression import Expression
from .pages import Page, by_targets, save_image
from .speak import express
from .truth import mask_of

_TASKS = ("implicit", "single", "multi")
_PHRASES = 4


def write_reasonseg(folder: Path, split: str, pages: Iterable[Page]) -> int:
    """Write `ReasonSeg/{split}/*.jpg`, each with a JSON of the same name.

    Polygons go through the pixels of the contour, as LISA's `get_mask_from_json` draws them; a hole
    is a polygon labelled "ignore", the only way the format has to take pixels out.

    Returns:
        The number of phrases.
    """
    phrases = 0
    for page in pages:
        drawing, seed = page.drawing, page.drawing.scene.seed
        task = _TASKS[seed % len(_TASKS)]
        said = [
            each
            for each in express(drawing, seed=seed, tasks=(task,), per_task=_PHRASES)
            if each.targets
        ]
        if not said:
            continue
        same = next(iter(by_targets(tuple(said)).values()))
        path = folder / "ReasonSeg" / split / f"{page.image_id:012d}.jpg"
        save_image(path, drawing.image_hwc)
        record = _record(same, mask_of(drawing, same[0].targets))
        path.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
        phrases += len(same)
    return phrases


def _record(same: list[Expression], mask_hw: np.ndarray) -> dict[str, Any]:
    return {
        "text": [expression.text for expression in same],
        "is_sentence": same[0].task == "implicit",
        "shapes": list(_shapes(mask_hw)),
    }


def _shapes(mask_hw: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the outlines of every piece, of the holes in these, of the islands in the holes..."""
    label, inside = "target", mask_hw
    while inside.any():
        outlines = _outlines(inside)
        for outline in outlines:
            yield {"label": label, "points": outline[:, 0].tolist(), "shape_type": "polygon"}
        filled = np.zeros(mask_hw.shape, np.uint8)
        cv2.fillPoly(filled, outlines, 1)
        label = "ignore" if label == "target" else "target"
        inside = (filled > 0) & ~inside


def _outlines(mask_hw: np.ndarray) -> list[np.ndarray]:
    """Return the outermost contours, int32 (N, 1, 2) x and y of pixels on the edge itself."""
    contours, _ = cv2.findContours(
        mask_hw.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    return list(contours)
