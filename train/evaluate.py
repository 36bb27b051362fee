"""Bundles on the tabletop world: the truth, the masks of the engines, and what separates them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise

import numpy as np

from ..calibration.score import Score, score_mask
from ..runtime.segmenter import Segmenter
from .world.compose import compose
from .world.draw import draw
from .world.expression import Expression
from .world.speak import express
from .world.truth import Drawing, mask_of

TASKS = ("single", "part", "semantic")
"""Tasks of `expression.TASKS` that are asked for unless others are named."""
MASK_TASKS = (*TASKS, "multi")
"""Tasks that end in one mask; that of "multi" may be empty, or of several objects (GRES)."""
WORDS = "vqa"
"""The task that words alone answer."""
PER_TASK = 4
"""Phrases of each task and frame, at most."""
HELD_OUT = "held out"
"""Suffix of a task's phrases about colors and categories that training never showed together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldRecipe:
    """Which phrases to ask."""

    split: str = "test"
    """"train", "val" or "test"."""
    phrases: int = 2000
    """Least number of phrases of the first task."""
    tasks: tuple[str, ...] = TASKS
    """What is asked for, of `MASK_TASKS`."""
    size_hw: tuple[int, int] = (240, 320)
    """Height and width of the frames in pixels."""
    first_seed: int = 0
    """Seed of the first scene."""
    has_wrong_words: bool = False
    """True to say the next scene's phrases instead: what a model scores that does not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One bundle's figures."""

    samples: dict[str, tuple[Score, ...]]
    """Task -> a score for each phrase, and two breakdowns of it: "TASK KIND", where the kind is
    `Expression.kind`, and "TASK held out", the phrases about pairs that training never showed."""
    frame_ms: float
    """Median milliseconds of a frame with all its phrases, from array to masks."""
    frames: int
    """Frames that were segmented."""

    @property
    def scores(self) -> dict[str, Score]:
        """The phrases of each key of `samples` together."""
        return {key: sum(each, Score()) for key, each in self.samples.items()}


def evaluate(
    segmenters: Sequence[Segmenter], recipe: WorldRecipe, *, on_frame: Callable[[], None]
) -> list[Evaluation]:
    """Ask several bundles the same phrases, frame by frame side by side.

    Args:
        segmenters: Open bundles.
        recipe: Which phrases to ask.
        on_frame: Called after each frame.

    Returns:
        The figures of each bundle, in the order of `segmenters`.

    Raises:
        SaymaskError: See `Segmenter.segment`.
    """
    samples: list[dict[str, list[Score]]] = [{} for _ in segmenters]
    times_ms: list[list[float]] = [[] for _ in segmenters]
    for drawing, said, texts in _questions(recipe):
        truths = [mask_of(drawing, expression.targets) for expression in said]
        for which, segmenter in enumerate(segmenters):
            masks = segmenter.segment(drawing.image_hwc, texts)
            times_ms[which].append(sum(ms for _, ms in masks.timings_ms))
            for expression, mask_hw, truth_hw in zip(said, masks.boolean, truths, strict=True):
                _add(samples[which], expression, score_mask(mask_hw, truth_hw))
        on_frame()
    return [
        Evaluation(
            samples={key: tuple(scores) for key, scores in each.items()},
            frame_ms=statistics.median(times),
            frames=len(times),
        )
        for each, times in zip(samples, times_ms, strict=True)
    ]


def evaluate_words(
    answer: Callable[[np.ndarray, str], str], recipe: WorldRecipe, *, on_frame: Callable[[], None]
) -> dict[str, tuple[bool, ...]]:
    """Ask what words alone answer, at least `recipe.phrases` questions (VQA).

    Args:
        answer: Takes a frame (H, W, 3) uint8 RGB and a question, and says something.
        recipe: Which scenes to ask about; its tasks do not count.
        on_frame: Called after each frame.

    Returns:
        "vqa", and "vqa KIND" where the kind is `Expression.kind`, -> for each question whether
        the answer is the true one but for capitals and a full stop.
    """
    right: dict[str, list[bool]] = {WORDS: []}
    for drawing, said in _spoken_scenes(replace(recipe, tasks=(WORDS,))):
        for expression in said:
            words = answer(drawing.image_hwc, expression.text)
            is_right = words.strip().rstrip(".").casefold() == expression.answer.casefold()
            for key in (WORDS, f"{WORDS} {expression.kind}"):
                right.setdefault(key, []).append(is_right)
        on_frame()
        if len(right[WORDS]) >= recipe.phrases:
            break
    return {key: tuple(each) for key, each in right.items()}


def _questions(
    recipe: WorldRecipe,
) -> Iterator[tuple[Drawing, tuple[Expression, ...], list[str]]]:
    """Yield each drawing with what is true of it and, phrase by phrase, the words to ask with."""
    asked = 0
    for (drawing, said), (_, others) in pairwise(_spoken_scenes(recipe)):
        words = _replaced(said, others) if recipe.has_wrong_words else said
        yield drawing, said, [expression.text for expression in words]
        asked += sum(expression.task == recipe.tasks[0] for expression in said)
        if asked >= recipe.phrases:
            return


def _spoken_scenes(recipe: WorldRecipe) -> Iterator[tuple[Drawing, tuple[Expression, ...]]]:
    """Yield scenes without end, each with what is said of it; those without words are left out."""
    for seed in count(recipe.first_seed):
        drawing = draw(compose(seed, recipe.split), recipe.size_hw)
        said = express(drawing, seed=seed, tasks=recipe.tasks, per_task=PER_TASK)
        if said:
            yield drawing, said


def _replaced(said: Sequence[Expression], others: Sequence[Expression]) -> list[Expression]:
    """Return one of `others` for each expression, of the same task where there is one."""
    replacements = []
    for index, expression in enumerate(said):
        alike = [other for other in others if other.task == expression.task] or others
        replacements.append(alike[index % len(alike)])
    return replacements


def _add(samples: dict[str, list[Score]], expression: Expression, score: Score) -> None:
    keys = [expression.task, f"{expression.task} {expression.kind}"]
    if expression.is_held_out:
        keys.append(f"{expression.task} {HELD_OUT}")
    for key in keys:
        samples.setdefault(key, []).append(score)


def word_figures(answers: Sequence[bool]) -> dict[str, float | int]:
    """Return answers, right or wrong, as the figures that are printed, shares in [0, 1]."""
    return {"phrases": len(answers), "accuracy": statistics.fmean(answers)}


def figures(score: Score) -> dict[str, float | int]:
    """Return a score as the figures that are printed, shares in [0, 1].

    A figure that no phrase bears on is left out: precision where none has a target, and N-acc and
    T-acc (GRES), which are about rejecting, where all have one.
    """
    at_50, at_70, at_90 = score.precision
    values = {
        "phrases": score.samples,
        "gIoU": score.giou,
        "cIoU": score.ciou,
        "Pr@0.5": at_50,
        "Pr@0.7": at_70,
        "Pr@0.9": at_90,
    }
    if score.targeted < score.samples:
        values |= {"N-acc": score.n_acc, "T-acc": score.t_acc}
    return {name: value for name, value in values.items() if not math.isnan(value)}
