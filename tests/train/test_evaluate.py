from dataclasses import replace
from itertools import count, cycle, islice, pairwise

import numpy as np
import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.segmenter import Segmenter
from saymask.train.evaluate import (
    PER_TASK,
    Evaluation,
    WorldRecipe,
    evaluate,
    evaluate_words,
    figures,
    word_figures,
)
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.expression import Expression
from saymask.train.world.speak import express
from saymask.train.world.truth import Drawing, mask_of

RECIPE = WorldRecipe(phrases=60, size_hw=(120, 160), first_seed=5)


@pytest.fixture(scope="module")
def segmenter(tiny_bundle, tmp_path_factory):
    """The tiny bundle with a threshold that suits the world's paler colors."""
    tiny = Bundle.read(tiny_bundle)
    files = {name: tiny_bundle / name for name, _ in tiny.manifest.files if name != "golden.npz"}
    manifest = replace(tiny.manifest, mask_threshold=-1.0)
    pale = Bundle.write(tmp_path_factory.mktemp("pale") / "pale", manifest, files, tiny.golden())
    with Segmenter.open(pale.folder, device="cpu", threads=1) as segmenter:
        yield segmenter


@pytest.fixture(scope="module")
def asked() -> list[tuple[Drawing, tuple[Expression, ...]]]:
    """Scenes with their phrases: those that are asked, and one more."""
    found, singles = [], 0
    for seed in count(RECIPE.first_seed):
        drawing = draw(compose(seed, RECIPE.split), RECIPE.size_hw)
        said = express(drawing, seed=seed, tasks=RECIPE.tasks, per_task=PER_TASK)
        if said:
            found.append((drawing, said))
        if said and singles >= RECIPE.phrases:
            break
        singles += sum(expression.task == "single" for expression in said)
    return found


@pytest.fixture(scope="module")
def scenes(asked) -> list[tuple[Drawing, tuple[Expression, ...]]]:
    return asked[:-1]


@pytest.fixture(scope="module")
def frames() -> list[int]:
    """Grows with every frame that the evaluation reports."""
    return []


@pytest.fixture(scope="module")
def found(segmenter, frames) -> Evaluation:
    first, second = evaluate([segmenter] * 2, RECIPE, on_frame=lambda: frames.append(1))
    assert first.scores == second.scores
    return first


def ious(segmenter, scenes, keeps) -> list[float]:
    """IoU of each phrase that `keeps` lets through, asked one by one."""
    return [
        iou(segmenter, drawing, expression, expression.text)
        for drawing, said in scenes
        for expression in filter(keeps, said)
    ]


def iou(segmenter, drawing, expression, text) -> float:
    mask_hw = segmenter.segment(drawing.image_hwc, text).boolean[0]
    truth_hw = mask_of(drawing, expression.targets)
    return (mask_hw & truth_hw).sum() / (mask_hw | truth_hw).sum()


def test_every_phrase_is_asked_once(found, scenes, frames):
    assert len(frames) == found.frames == len(scenes)
    for task in RECIPE.tasks:
        asked = [each for _, said in scenes for each in said if each.task == task]
        assert found.scores[task].samples == len(asked)
    assert found.scores["single"].samples >= 60
    assert found.frame_ms > 0


def test_the_figures_are_those_of_the_masks(found, scenes, segmenter):
    values = ious(segmenter, scenes, lambda expression: expression.task == "single")
    printed = figures(found.scores["single"])
    assert printed["phrases"] == len(values)
    assert printed["gIoU"] == pytest.approx(np.mean(values))
    for threshold in (0.5, 0.7, 0.9):
        share = np.mean([value >= threshold for value in values])
        assert printed[f"Pr@{threshold}"] == pytest.approx(share)
    assert 0.05 < printed["gIoU"] < 1, "the tiny bundle knows three colors"


def test_held_out_pairs_are_counted_apart(found, scenes, segmenter):
    values = ious(segmenter, scenes, lambda each: each.task == "single" and each.is_held_out)
    apart = found.scores["single held out"]
    assert 0 < len(values) < found.scores["single"].samples
    assert apart.samples == len(values)
    assert apart.giou == pytest.approx(np.mean(values))


def test_kinds_add_up_to_their_task(found, scenes):
    for task in RECIPE.tasks:
        kinds = {each.kind for _, said in scenes for each in said if each.task == task}
        parts = [found.scores[f"{task} {kind}"] for kind in kinds]
        assert sum(part.samples for part in parts) == found.scores[task].samples


def test_training_scenes_hold_nothing_out(segmenter):
    recipe = replace(RECIPE, split="train", tasks=("single",), phrases=12)
    (found,) = evaluate([segmenter], recipe, on_frame=lambda: None)
    assert "single" in found.scores
    assert "single held out" not in found.scores


def test_wrong_words_are_the_next_scenes_of_the_same_task(found, asked, segmenter):
    recipe = replace(RECIPE, has_wrong_words=True)
    (blind,) = evaluate([segmenter], recipe, on_frame=lambda: None)
    assert blind.scores["single"].samples == found.scores["single"].samples
    assert blind.scores["single"].giou < 0.7 * found.scores["single"].giou
    values = []
    for (drawing, said), (_, others) in pairwise(asked):
        singles = [expression for expression in said if expression.task == "single"]
        texts = [other.text for other in others if other.task == "single"]
        values += [
            iou(segmenter, drawing, *pair)
            for pair in zip(singles, islice(cycle(texts), len(singles)), strict=True)
        ]
    assert blind.scores["single"].iou_sum == pytest.approx(sum(values))


def test_groups_may_have_no_target(segmenter):
    recipe = replace(RECIPE, tasks=("multi",), phrases=40)
    (found,) = evaluate([segmenter], recipe, on_frame=lambda: None)
    samples = found.samples["multi"]
    none = [score for score in samples if not score.targeted]
    assert 0 < len(none) == found.scores["multi none"].samples < len(samples)
    printed = figures(found.scores["multi"])
    assert printed["N-acc"] == pytest.approx(np.mean([score.giou for score in none]))
    shown = [score.targeted_found for score in samples if score.targeted]
    assert printed["T-acc"] == pytest.approx(np.mean(shown))
    assert set(figures(found.scores["multi none"])) <= {"phrases", "gIoU", "cIoU", "N-acc"}
    assert "N-acc" not in figures(found.scores["multi one"])


def test_words_are_right_or_wrong():
    asked, frames = [], []

    def answer(frame, question):
        assert frame.shape == (120, 160, 3)
        asked.append(question)
        return " Yes.\n"

    recipe = replace(RECIPE, phrases=50)
    found = evaluate_words(answer, recipe, on_frame=lambda: frames.append(1))
    truth = []
    for seed in count(RECIPE.first_seed):
        drawing = draw(compose(seed, RECIPE.split), RECIPE.size_hw)
        truth += express(drawing, seed=seed, tasks=("vqa",), per_task=PER_TASK)
        if len(truth) >= 50:
            break
    assert asked == [each.text for each in truth]
    assert found["vqa"] == tuple(each.answer == "yes" for each in truth)
    assert word_figures(found["vqa"])["accuracy"] == pytest.approx(np.mean(found["vqa"]))
    assert str(word_figures((True, True))["accuracy"]) == "1.0", "a share, no count"
    assert any(found["vqa yes or no"])
    assert not any(found["vqa color"])
    assert frames
