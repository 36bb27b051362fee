"""Bundles on moving tabletops: masks followed through clips, against the system on every frame."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice, pairwise

import cv2
import numpy as np

from ..calibration.score import Score, score_mask
from ..runtime.live.tracking import Tracker, open_tracker
from ..runtime.masks import Masks
from ..runtime.segmenter import Segmenter
from .world.clip import compose_clip, frames
from .world.expression import Expression
from .world.speak import express
from .world.truth import Drawing, mask_of

LASTING_KINDS = ("category", "attribute")
"""Kinds of phrases that name what an object is, and not where: they stay true as things move."""
TRIES = 12
"""Phrases drawn of a clip's first frame, before those that are not asked are left out."""
TOLERANCE = 0.008
"""How far apart boundaries may lie and still agree, in diagonals of the frame (DAVIS)."""
RECOGNIZED_IOU = 0.1
"""A mask with less than this in common with every object shows none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRecipe:
    """What is shown and asked.

    Each phrase names one object that shows clearly in the first frame, by what only it is. Its
    truth is what shows of that object, nothing while it is away.
    """

    split: str = "test"
    """"train", "val" or "test"."""
    clips: int = 20
    """Number of clips; those that nothing can be asked of do not count."""
    frame_count: int = 60
    """Frames of each clip, two seconds at 30 a second: one object leaves and returns in them, two
    change places, the camera pans and zooms."""
    every: int = 5
    """Distance of keyframes."""
    most_phrases: int = 4
    """Phrases of each clip, at most; no two of one object."""
    size_hw: tuple[int, int] = (240, 320)
    """Height and width of the frames in pixels."""
    first_seed: int = 0
    """Seed of the first clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoScore:
    """How well one way of running a bundle did; a sample is one phrase in one frame."""

    region: Score = Score()
    """Its `giou` is J: the mean IoU, 1 where both masks are empty."""
    boundary_sum: float = 0.0
    """Sum of the samples' boundary F-measures."""
    switches: int = 0
    """How often a mask went over from the object that is meant to another one."""
    frames: int = 0
    """Frames that were run."""
    cpu_ns: int = 0
    """Processor time of the whole process from arrays to masks, in nanoseconds."""

    @property
    def boundary(self) -> float:
        """F, the mean of the boundary F-measures, in [0, 1]."""
        return self.boundary_sum / self.region.samples

    @property
    def frame_ms(self) -> float:
        """Mean processor milliseconds of a frame with all its phrases."""
        return self.cpu_ns / self.frames / 1e6

    def __add__(self, other: VideoScore) -> VideoScore:
        """Join the sums of disjoint samples."""
        return VideoScore(
            region=self.region + other.region,
            boundary_sum=self.boundary_sum + other.boundary_sum,
            switches=self.switches + other.switches,
            frames=self.frames + other.frames,
            cpu_ns=self.cpu_ns + other.cpu_ns,
        )


def evaluate_video(
    segmenter: Segmenter, recipe: VideoRecipe, *, on_frame: Callable[[], None]
) -> dict[str, VideoScore]:
    """Run a bundle through clips in several ways, side by side on every frame.

    The system sees each frame once, and its masks and time serve every way that has its keyframe
    there: it keeps nothing from one frame to the next.

    Args:
        segmenter: An open bundle.
        recipe: What is shown and asked.
        on_frame: Called after each frame.

    Returns:
        Way -> score: the system on every frame; keyframes with tracked masks between, at the
        recipe's distance and twice that; keyframes with the last masks held between.

    Raises:
        SaymaskError: See `Segmenter.segment` and `open_tracker`.
    """
    ways: dict[str, tuple[int, Callable[[], Tracker]]] = {
        "every frame": (1, _Held),
        f"every {recipe.every}, tracked": (recipe.every, lambda: open_tracker(segmenter)),
        f"every {recipe.every}, held": (recipe.every, _Held),
        f"every {2 * recipe.every}, tracked": (2 * recipe.every, lambda: open_tracker(segmenter)),
    }
    scores = dict.fromkeys(ways, VideoScore())
    for said, drawings in asked_clips(recipe):
        texts = [expression.text for expression in said]
        runs = {name: _Run(every, begin(), said) for name, (every, begin) in ways.items()}
        for drawing in drawings:
            start_ns = time.process_time_ns()
            masks = segmenter.segment(drawing.image_hwc, texts)
            system_ns = time.process_time_ns() - start_ns
            for name, run in runs.items():
                scores[name] += run.step(drawing, masks, system_ns)
            on_frame()
        for name, run in runs.items():
            scores[name] += VideoScore(switches=run.switches)
    return scores


def video_figures(scores: dict[str, VideoScore]) -> dict[str, dict[str, float | int]]:
    """Return ways' scores as the figures that are printed, shares in [0, 1].

    "speed-up" is over the first way, which runs the system on every frame.
    """
    whole_ms = next(iter(scores.values())).frame_ms
    return {
        way: {
            "masks": score.region.samples,
            "J": score.region.giou,
            "F": score.boundary,
            "J&F": (score.region.giou + score.boundary) / 2,
            "switches": score.switches,
            "CPU ms": score.frame_ms,
            "speed-up": whole_ms / score.frame_ms,
        }
        for way, score in scores.items()
    }


def asked_clips(
    recipe: VideoRecipe,
) -> Iterator[tuple[tuple[Expression, ...], Iterator[Drawing]]]:
    """Yield what is asked of each clip, and its frames."""
    asked = ((seed, said) for seed in count(recipe.first_seed) if (said := _asked(seed, recipe)))
    for seed, said in islice(asked, recipe.clips):
        yield said, frames(compose_clip(seed, recipe.split, recipe.frame_count), recipe.size_hw)


def boundary_f(prediction_hw: np.ndarray, truth_hw: np.ndarray) -> float:
    """Measure how well two outlines agree, as davis2017-evaluation does (`metrics.f_measure`).

    Args:
        prediction_hw: (H, W) bool.
        truth_hw: (H, W) bool.

    Returns:
        Harmonic mean of precision and recall of boundary pixels, each right when a disk of
        0.8 % of the diagonal, rounded up, reaches the other boundary. In [0, 1]; 1 where neither
        mask has a boundary, 0 where one has none.
    """
    predicted, true = _boundary(prediction_hw), _boundary(truth_hw)
    if not (predicted.any() and true.any()):
        return float(predicted.any() == true.any())
    radius = math.ceil(TOLERANCE * math.hypot(*truth_hw.shape))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    precision = cv2.dilate(true.view(np.uint8), disk)[predicted].mean()
    recall = cv2.dilate(predicted.view(np.uint8), disk)[true].mean()
    return float(2 * precision * recall / max(precision + recall, np.finfo(float).tiny))


def _asked(seed: int, recipe: VideoRecipe) -> tuple[Expression, ...]:
    """What is asked of a clip; of one whose first frame is hard to speak of, nothing."""
    clip = compose_clip(seed, recipe.split, recipe.frame_count)
    first = next(frames(clip, recipe.size_hw))
    asked: dict[int, Expression] = {}
    for expression in express(first, seed=seed, tasks=("single",), per_task=TRIES):
        if expression.kind in LASTING_KINDS:
            asked.setdefault(expression.targets[0].object_index, expression)
    return tuple(asked.values())[: recipe.most_phrases]


class _Held:
    """Repeats the keyframe's masks: what any tracker has to beat."""

    def restart(self, frame_hwc: np.ndarray, masks: Masks) -> Masks:
        self._masks = masks
        return masks

    def follow(self, frame_hwc: np.ndarray) -> Masks:
        return self._masks


class _Run:
    """One way through one clip."""

    def __init__(self, every: int, tracker: Tracker, said: tuple[Expression, ...]) -> None:
        self._every, self._tracker, self._said = every, tracker, said
        self._shown: list[list[int | None]] = []

    def step(self, drawing: Drawing, masks: Masks, system_ns: int) -> VideoScore:
        """Score the next frame, of which the system said `masks` in `system_ns`."""
        is_key = len(self._shown) % self._every == 0
        start_ns = time.process_time_ns()
        if is_key:
            masks = self._tracker.restart(drawing.image_hwc, masks)
        else:
            masks = self._tracker.follow(drawing.image_hwc)
        cpu_ns = time.process_time_ns() - start_ns + is_key * system_ns
        self._shown.append([shown_object(each, drawing.instance_map_hw) for each in masks.boolean])
        score = VideoScore(frames=1, cpu_ns=cpu_ns)
        for expression, mask_hw in zip(self._said, masks.boolean, strict=True):
            truth_hw = mask_of(drawing, expression.targets)
            score += VideoScore(
                region=score_mask(mask_hw, truth_hw), boundary_sum=boundary_f(mask_hw, truth_hw)
            )
        return score

    @property
    def switches(self) -> int:
        """Identity switches of all phrases so far."""
        return sum(
            count_switches(shown, expression.targets[0].object_index)
            for expression, shown in zip(self._said, zip(*self._shown, strict=True), strict=True)
        )


def count_switches(shown: Iterable[int | None], meant: int) -> int:
    """Count how often a mask goes over to another object from the one that is meant.

    Args:
        shown: What it shows in each frame, see `shown_object`; None says nothing either way.
        meant: The object that is meant.
    """
    objects = [each for each in shown if each is not None]
    return sum(before == meant != after for before, after in pairwise(objects))


def shown_object(mask_hw: np.ndarray, instance_map_hw: np.ndarray) -> int | None:
    """Return the object that a mask shows best, None when it shows none of them.

    Args:
        mask_hw: (H, W) bool.
        instance_map_hw: (H, W) uint8, see `Drawing.instance_map_hw`.
    """
    inside = np.bincount(instance_map_hw[mask_hw], minlength=256)
    either = np.bincount(instance_map_hw.ravel(), minlength=256) + inside.sum() - inside
    iou = inside[1:] / np.maximum(either[1:], 1)
    return int(iou.argmax()) if iou.max() >= RECOGNIZED_IOU else None


def _boundary(mask_hw: np.ndarray) -> np.ndarray:
    """Mark the pixels that differ from the one right, below or diagonally below; bool (H, W)."""
    padded = np.pad(mask_hw, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask_hw != right) | (mask_hw != below) | (mask_hw != diagonal)
