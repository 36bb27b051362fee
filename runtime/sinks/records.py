"""A frame's masks as plain records, one for each mask, as JSON lines and recordings hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..masks import Masks, Said
from ..sources.frame import Frame

__all__ = ["RECORD_SCHEMA", "records"]

_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_STRING = {"type": "string"}
_NUMBER_OR_NULL = {"type": ["number", "null"]}

RECORD_SCHEMA = {
    "type": "object",
    "properties": {
        "source": _STRING,
        "frame": _INTEGER,
        "captured_ns": _INTEGER,
        "time_s": {"type": ["number", "null"]},
        "phrase": _STRING,
        "size": {"type": "array", "items": _INTEGER},
        "rle": {
            "type": "object",
            "properties": {"size": {"type": "array", "items": _INTEGER}, "counts": _STRING},
        },
        "box_xyxy": {"type": "array", "items": _NUMBER},
        "score": _NUMBER,
        "area_px": _INTEGER,
        "said": {
            "type": ["object", "null"],
            "properties": {
                "answer": _STRING,
                "reason": _STRING,
                "boxes_xyxy": {"type": "array", "items": {"type": "array", "items": _NUMBER}},
                "points": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "xy": {"type": "array", "items": _NUMBER},
                            "label": _INTEGER,
                            "yes": _NUMBER_OR_NULL,
                            "no": _NUMBER_OR_NULL,
                        },
                    },
                },
            },
        },
        "times_ms": {"type": "object", "additionalProperties": _NUMBER},
    },
}
"""JSON Schema of one record."""


def records(frame: Frame, masks: Masks) -> Iterator[dict[str, Any]]:
    """Describe each mask, the empty ones included, in values that JSON knows.

    Args:
        frame: The frame of H x W pixels.
        masks: Its masks.

    Yields:
        The name of the source, the frame's index, its capture on the machine's monotonic clock and
        its time in seconds, the phrase, [H, W], the mask as COCO's run lengths, its box in pixels
        (right and bottom exclusive), its score, its area in pixels, what the system wrote down for
        it (None for one that only draws) and the milliseconds of each stage; see `RECORD_SCHEMA`.
    """
    boxes_xyxy, scores = masks.boxes_xyxy.tolist(), masks.scores.tolist()
    times_ms = {stage: round(ms, 3) for stage, ms in masks.timings_ms}
    for number, (label, rle) in enumerate(zip(masks.labels, masks.rle(), strict=True)):
        yield {
            "source": frame.name,
            "frame": frame.index,
            "captured_ns": frame.captured_ns,
            "time_s": frame.time_s and round(frame.time_s, 6),
            "phrase": label,
            "size": rle["size"],
            "rle": rle,
            "box_xyxy": boxes_xyxy[number],
            "score": round(scores[number], 6),
            "area_px": int(masks.boolean[number].sum()),
            "said": _said(masks.said[number]) if masks.said else None,
            "times_ms": times_ms,
        }


def _said(said: Said) -> dict[str, Any]:
    count = len(said.points_xy)
    chances = [(None, None)] * count if said.confidences is None else _rounded(said.confidences, 6)
    rows = zip(_rounded(said.points_xy, 2), said.labels.tolist(), chances, strict=True)
    return {
        "answer": said.answer,
        "reason": said.reason,
        "boxes_xyxy": _rounded(said.boxes_xyxy, 2),
        "points": [
            {"xy": xy, "label": label, "yes": yes, "no": no} for xy, label, (yes, no) in rows
        ],
    }


def _rounded(array: np.ndarray, digits: int) -> list[list[float]]:
    return array.astype(np.float64).round(digits).tolist()
