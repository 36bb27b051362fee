"""What every system answers: masks in the frame, with a box, a score and a label each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels.boxes import boxes_xyxy_from_masks
from ..kernels.rle import encode
from .errors import require

__all__ = ["Masks", "Said"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Said:
    """What a system wrote down before it drew one mask."""

    answer: str
    """Its words, a line for each turn."""
    reason: str
    """Why there was nothing to draw, or what of the answer was not drawn; else empty."""
    boxes_xyxy: np.ndarray
    """(b, 4) float32 in the frame's pixels, one for each object."""
    points_xy: np.ndarray
    """(p, 2) float32 in the frame's pixels."""
    labels: np.ndarray
    """(p,) int64: 1 on the object, 0 off it, -1 too unsure to be drawn from."""
    confidences: np.ndarray | None
    """(p, 2) float32 in [0, 1], the probabilities that a point is on the object and off it; None
    where it wrote the points without being asked."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Masks:
    """N >= 0 masks of one frame of H x W pixels."""

    boolean: np.ndarray
    """(N, H, W) bool, True inside the mask."""
    boxes_xyxy: np.ndarray
    """(N, 4) float32 in pixels, right and bottom exclusive; zeros for an empty mask."""
    scores: np.ndarray
    """(N,) float32 in [0, 1], mean foreground probability inside the mask; 0 for an empty mask."""
    labels: tuple[str, ...]
    """The words that each mask answers."""
    answer: str
    """What the system says; empty for systems that only draw."""
    said: tuple[Said, ...]
    """What it wrote down for each mask; empty for systems that only draw, and on frames that the
    masks were carried to."""
    timings_ms: tuple[tuple[str, float], ...]
    """Milliseconds of each stage, in the order they ran."""

    @classmethod
    def of(cls, boolean: np.ndarray, scores: np.ndarray, labels: tuple[str, ...]) -> Masks:
        """Measure the boxes of masks (N, H, W) bool that have scores (N,) float32 and labels."""
        return cls(
            boolean=boolean,
            boxes_xyxy=boxes_xyxy_from_masks(boolean),
            scores=scores,
            labels=labels,
            answer="",
            said=(),
            timings_ms=(),
        )

    def __len__(self) -> int:
        """Count the masks, the empty ones included."""
        return len(self.boolean)

    def rle(self) -> list[dict[str, Any]]:
        """Write each mask as COCO's compressed run lengths: {"size": [H, W], "counts": str}."""
        return [encode(mask_hw) for mask_hw in self.boolean]

    def to_supervision(self) -> Any:
        """Hand the masks over as `supervision.Detections`, labels under "class_name".

        Raises:
            MissingExtraError: The library supervision is not installed.
        """
        supervision = require("supervision", extra="supervision")
        return supervision.Detections(
            xyxy=self.boxes_xyxy,
            mask=self.boolean,
            confidence=self.scores,
            class_id=np.arange(len(self)),
            data={"class_name": np.array(self.labels)},
        )
