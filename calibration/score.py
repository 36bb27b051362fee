"""How well masks agree with the truth: gIoU, cIoU, precision and the no-target accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.errors import UsageError

__all__ = ["THRESHOLDS", "Score", "merge", "score_mask", "score_tasks"]

THRESHOLDS = (0.5, 0.7, 0.9)
"""IoU from which a sample counts in Pr@0.5, Pr@0.7 and Pr@0.9."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Counts over pairs of a predicted and a true mask; `+` joins those of disjoint samples.

    One set of rules serves LISA's and EVF-SAM's evaluators and the GRES evaluator of ReLA: a sample
    without pixels in either mask has IoU 1 and no part in cIoU; "no target" is predicted by a mask
    without pixels. Every figure is in [0, 1], NaN where no sample bears on it.
    """

    samples: int = 0
    """Number of pairs."""
    iou_sum: float = 0.0
    """Sum of their IoU."""
    intersection_pixels: int = 0
    """Pixels in both masks of a pair, over all pairs."""
    union_pixels: int = 0
    """Pixels in either mask of a pair, over all pairs."""
    targeted: int = 0
    """Pairs whose true mask has pixels."""
    targeted_found: int = 0
    """Of these, the pairs whose predicted mask has pixels too."""
    hits: tuple[int, ...] = (0,) * len(THRESHOLDS)
    """Of these, the pairs whose IoU reaches each of `THRESHOLDS`."""
    untargeted_kept: int = 0
    """Pairs where both masks are empty."""

    @property
    def giou(self) -> float:
        """Mean IoU of the samples (not "generalized IoU")."""
        return _ratio(self.iou_sum, self.samples)

    @property
    def ciou(self) -> float:
        """Cumulative IoU: all intersections over all unions."""
        return _ratio(self.intersection_pixels, self.union_pixels)

    @property
    def precision(self) -> tuple[float, ...]:
        """Share of the targeted samples whose IoU reaches each of `THRESHOLDS`."""
        return tuple(_ratio(count, self.targeted) for count in self.hits)

    @property
    def n_acc(self) -> float:
        """Share of the samples without target whose predicted mask is empty (GRES)."""
        return _ratio(self.untargeted_kept, self.samples - self.targeted)

    @property
    def t_acc(self) -> float:
        """Share of the targeted samples whose predicted mask is not empty (GRES)."""
        return _ratio(self.targeted_found, self.targeted)

    def __add__(self, other: Score) -> Score:
        """Join the counts of two sets of samples."""
        return Score(
            samples=self.samples + other.samples,
            iou_sum=self.iou_sum + other.iou_sum,
            intersection_pixels=self.intersection_pixels + other.intersection_pixels,
            union_pixels=self.union_pixels + other.union_pixels,
            targeted=self.targeted + other.targeted,
            targeted_found=self.targeted_found + other.targeted_found,
            hits=tuple(a + b for a, b in zip(self.hits, other.hits, strict=True)),
            untargeted_kept=self.untargeted_kept + other.untargeted_kept,
        )


def score_mask(prediction_hw: np.ndarray, truth_hw: np.ndarray) -> Score:
    """Score one pair of masks.

    Args:
        prediction_hw: (H, W) bool. Clear pixels that do not count in both masks beforehand.
        truth_hw: (H, W) bool.

    Raises:
        UsageError: The masks are not boolean planes of one size.
    """
    is_pair = prediction_hw.ndim == 2 and prediction_hw.shape == truth_hw.shape
    if not is_pair or not prediction_hw.dtype == truth_hw.dtype == np.bool_:
        raise UsageError(
            f"two masks must be bool (H, W) of one size; got {prediction_hw.dtype} "
            f"{prediction_hw.shape} and {truth_hw.dtype} {truth_hw.shape}"
        )
    intersection = int(np.count_nonzero(prediction_hw & truth_hw))
    union = int(np.count_nonzero(prediction_hw | truth_hw))
    iou = intersection / union if union else 1.0
    is_targeted, is_found = bool(truth_hw.any()), bool(prediction_hw.any())
    return Score(
        samples=1,
        iou_sum=iou,
        intersection_pixels=intersection,
        union_pixels=union,
        targeted=int(is_targeted),
        targeted_found=int(is_targeted and is_found),
        hits=tuple(int(is_targeted and iou >= threshold) for threshold in THRESHOLDS),
        untargeted_kept=int(union == 0),
    )


def score_tasks(samples: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> dict[str, Score]:
    """Score (task, prediction, truth) triples by task; see `score_mask` for the masks."""
    scores: dict[str, Score] = {}
    for task, prediction_hw, truth_hw in samples:
        scores[task] = scores.get(task, Score()) + score_mask(prediction_hw, truth_hw)
    return scores


def merge(*parts: Mapping[str, Score]) -> dict[str, Score]:
    """Join scores by task, for example those of several shards of one data set."""
    merged: dict[str, Score] = {}
    for part in parts:
        for task, score in part.items():
            merged[task] = merged.get(task, Score()) + score
    return merged


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
