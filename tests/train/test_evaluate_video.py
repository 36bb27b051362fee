from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from saymask.runtime.segmenter import Segmenter
from saymask.train.evaluate_video import (
    LASTING_KINDS,
    VideoRecipe,
    VideoScore,
    asked_clips,
    boundary_f,
    count_switches,
    evaluate_video,
    shown_object,
    video_figures,
)
from saymask.train.world.catalogue import CATEGORIES
from saymask.train.world.sight import look

RECIPE = VideoRecipe(clips=2, frame_count=7, every=3, size_hw=(90, 120))
DIAGONAL_HW = (300, 400)
"""A frame whose tolerance is ceil(0.008 * 500) = 4 pixels."""


@pytest.fixture(scope="module")
def frames() -> list[int]:
    return []


@pytest.fixture(scope="module")
def found(tiny_bundle, frames) -> dict[str, VideoScore]:
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        return evaluate_video(segmenter, RECIPE, on_frame=lambda: frames.append(1))


def square(left: int, top: int, side: int = 40) -> np.ndarray:
    mask_hw = np.zeros(DIAGONAL_HW, np.bool_)
    mask_hw[top : top + side, left : left + side] = True
    return mask_hw


def test_the_ways_are_run_on_the_same_frames(found, frames):
    assert list(found) == ["every frame", "every 3, tracked", "every 3, held", "every 6, tracked"]
    assert len(frames) == 2 * 7
    phrases = [len(said) for said, _ in asked_clips(RECIPE)]
    for score in found.values():
        assert score.frames == 2 * 7
        assert score.region.samples == 7 * sum(phrases)
        assert 0 <= score.boundary <= 1
        assert score.cpu_ns > 0


def test_keyframes_cost_what_the_system_costs(tiny_bundle, monkeypatch):
    clock = SimpleNamespace(process_time_ns=count().__next__)
    monkeypatch.setattr("saymask.train.evaluate_video.time", clock)
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        found = evaluate_video(segmenter, RECIPE, on_frame=lambda: None)
    ticks = [score.cpu_ns for score in found.values()]
    assert ticks == [28, 20, 20, 18], "1 for each frame's tracker, 1 more where the system runs"


def test_scores_repeat_but_for_time(tiny_bundle, found):
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        again = evaluate_video(segmenter, RECIPE, on_frame=lambda: None)
    for way, score in found.items():
        assert replace(again[way], cpu_ns=0) == replace(score, cpu_ns=0)


def test_what_is_asked_names_one_object_by_what_only_it_is():
    recipe = replace(RECIPE, clips=5, most_phrases=3)
    clips = list(asked_clips(recipe))
    assert len(clips) == 5
    for said, drawings in clips:
        first, *others = drawings
        assert len(others) == recipe.frame_count - 1
        targets = [target.object_index for each in said for target in each.targets]
        assert len(set(targets)) == len(targets) == len(said) <= 3
        assert set(targets) <= {one.index for one in look(first).clear}
        for expression in said:
            assert expression.kind in LASTING_KINDS
            thing = first.scene.objects[expression.targets[0].object_index]
            words = expression.text.split()
            assert thing.category in words or not set(CATEGORIES) & set(words)


@pytest.mark.parametrize(
    ("shift", "expected"), [(0, 1.0), (4, 1.0), (5, pytest.approx(0.55, abs=0.06)), (200, 0.0)]
)
def test_boundaries_agree_within_the_tolerance(shift, expected):
    assert boundary_f(square(30 + shift, 50), square(30, 50)) == expected


def test_precision_and_recall_of_a_boundary():
    truth = square(30, 50)
    both = truth | square(300, 50)
    assert boundary_f(both, truth) == pytest.approx(2 / 3), "precision 1/2, recall 1"
    assert boundary_f(truth, both) == pytest.approx(2 / 3)


def test_a_mask_without_pixels_has_no_boundary():
    nothing, everything = np.zeros(DIAGONAL_HW, np.bool_), np.ones(DIAGONAL_HW, np.bool_)
    assert boundary_f(nothing, nothing) == boundary_f(nothing, everything) == 1
    assert boundary_f(nothing, square(0, 0)) == boundary_f(square(0, 0), nothing) == 0


def test_the_object_that_a_mask_shows_best():
    instance_map_hw = np.zeros(DIAGONAL_HW, np.uint8)
    instance_map_hw[square(0, 0)] = 1
    instance_map_hw[square(100, 100)] = 5
    assert shown_object(square(0, 10), instance_map_hw) == 0
    assert shown_object(square(110, 100), instance_map_hw) == 4
    assert shown_object(square(0, 0) | square(100, 100, 10), instance_map_hw) == 0
    assert shown_object(square(200, 200), instance_map_hw) is None
    assert shown_object(square(36, 36), instance_map_hw) is None, "it only touches one"
    assert shown_object(np.zeros(DIAGONAL_HW, np.bool_), instance_map_hw) is None


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ((2, 2, 2), 0),
        ((2, 3, 3, 2, 3), 2),
        ((2, None, 3), 1),
        ((3, 3, 2), 0),
        ((None, None), 0),
        ((3, 4, 3), 0),
    ],
)
def test_only_leaving_the_right_object_is_a_switch(shown, expected):
    assert count_switches(shown, meant=2) == expected


def test_figures_are_those_of_the_scores(found):
    printed = video_figures(found)
    assert list(printed) == list(found)
    for way, values in printed.items():
        score = found[way]
        assert values["J"] == score.region.giou
        assert values["F"] == score.boundary
        assert values["J&F"] == pytest.approx((values["J"] + values["F"]) / 2)
        assert values["switches"] == score.switches
        assert values["CPU ms"] == pytest.approx(score.cpu_ns / score.frames / 1e6)
    assert printed["every frame"]["speed-up"] == 1
