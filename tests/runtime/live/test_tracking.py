from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.errors import FrameError, UsageError
from saymask.runtime.live.tracking import FADING, FlowTracker, open_tracker
from saymask.runtime.masks import Masks
from saymask.runtime.segmenter import Segmenter

SIZE_HW = (120, 160)
RED, BLUE = (200, 40, 40), (40, 60, 210)


class Thing:
    """A blotchy square of 40 pixels; `at` gives its left and top in each frame."""

    def __init__(self, color: tuple[int, int, int], at) -> None:
        shades = np.random.default_rng(sum(color)).integers(-40, 41, (5, 5, 1))
        self.square = (np.array(color) + shades.repeat(8, 0).repeat(8, 1)).clip(0, 255)
        self.at = at

    def paint(self, frame: np.ndarray, covered: np.ndarray, index: int) -> np.ndarray:
        """Draw it where nothing covers it yet and return what shows of it."""
        left, top = self.at(index)
        y, x = np.indices(SIZE_HW)
        shows = (x >= left) & (x < left + 40) & (y >= top) & (y < top + 40) & ~covered
        frame[shows] = self.square[(y - top)[shows], (x - left)[shows]]
        return shows


def film(*things: Thing, frames: int = 10) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames with the truth (N, H, W) of each; the first thing is nearest."""
    y, x = np.indices(SIZE_HW)
    drawn = []
    for index in range(frames):
        frame = np.dstack([120 + 30 * np.sin(x / 17), 130 + 20 * np.cos(y / 11), 140 + 0 * x])
        frame = frame.astype(np.uint8)
        truth = np.zeros((len(things), *SIZE_HW), np.bool_)
        for which, thing in enumerate(things):
            truth[which] = thing.paint(frame, truth.any(0), index)
        drawn.append((frame, truth))
    return drawn


def said(truth: np.ndarray, *scores: float, labels: tuple[str, ...] = ("red", "blue")) -> Masks:
    """What a perfect system says; the scores are 0.9 unless given."""
    given = np.array(scores or [0.9] * len(truth), np.float32)
    return Masks.of(truth, np.where(truth.any((1, 2)), given, 0), labels[: len(truth)])


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max((one | other).sum(), 1)


@pytest.fixture
def tracker() -> FlowTracker:
    return FlowTracker()


@pytest.fixture
def passing() -> list[tuple[np.ndarray, np.ndarray]]:
    """A red thing that passes before a blue one, which moves the other way behind it."""
    red = Thing(RED, lambda index: (20 + 5 * index, 30))
    blue = Thing(BLUE, lambda index: (100 - 5 * index, 50))
    return film(red, blue, frames=17)


@pytest.fixture
def leaving() -> list[tuple[np.ndarray, np.ndarray]]:
    """A red thing that is away on the left in frames 6 to 10, and comes back."""
    return film(Thing(RED, lambda index: (20 - 10 * min(index, 16 - index), 40)), frames=17)


def test_a_moving_thing_is_followed(tracker):
    film_of_one = film(Thing(RED, lambda index: (20 + 5 * index, 30 + 3 * index)))
    first, *others = film_of_one
    masks = tracker.restart(first[0], said(first[1]))
    np.testing.assert_array_equal(masks.boolean, first[1])
    for frame, truth in others:
        masks = tracker.follow(frame)
        assert iou(masks.boolean[0], truth[0]) > 0.85
        np.testing.assert_array_equal(masks.boxes_xyxy, said(masks.boolean).boxes_xyxy)
        assert masks.labels == ("red",)
        assert [name for name, _ in masks.timings_ms] == ["flow", "warp"]
    assert iou(first[1][0], others[-1][1][0]) < 0.1, "a mask that stays does not pass"


def test_scores_fade(tracker):
    (first, truth), *others = film(Thing(RED, lambda _: (50, 50)), frames=4)
    tracker.restart(first, said(truth, 0.8))
    for step, (frame, _) in enumerate(others, 1):
        assert tracker.follow(frame).scores == pytest.approx([0.8 * FADING**step])
    assert tracker.follow(first).scores.dtype == np.float32


def test_identities_survive_a_crossing(tracker, passing):
    for index, (frame, truth) in enumerate(passing):
        masks = tracker.follow(frame) if index % 4 else tracker.restart(frame, said(truth))
        red, blue = masks.boolean
        assert iou(red, truth[0]) > 0.65
        assert iou(blue, truth[1]) > 0.4
        assert iou(red, truth[1]) < 0.25
        assert iou(blue, truth[0]) < 0.1
    assert iou(truth[0], passing[0][1][1]) > 0.3, "they have changed places"


def test_the_nearer_thing_is_followed_through_a_crossing_without_keyframes(tracker, passing):
    tracker.restart(passing[0][0], said(passing[0][1]))
    for frame, truth in passing[1:9]:
        red, blue = tracker.follow(frame).boolean
        assert iou(red, truth[0]) > 0.8
        assert iou(blue, truth[1]) > 0.7
    assert truth[1].sum() == 800, "half of the blue one is covered"


def test_a_look_alike_does_not_take_a_label_over(tracker, passing):
    tracker.restart(passing[0][0], said(passing[0][1], 0.9, 0.9))
    frame, truth = passing[1]
    masks = tracker.restart(frame, said(truth[::-1], 0.8, 0.95))
    assert iou(masks.boolean[0], truth[0]) > 0.85, "less sure than the track: it stands"
    assert masks.scores[0] == pytest.approx(0.9 * FADING)
    np.testing.assert_array_equal(masks.boolean[1], truth[0])
    assert masks.scores[1] == np.float32(0.95)
    np.testing.assert_array_equal(masks.boxes_xyxy, said(masks.boolean).boxes_xyxy)


def test_a_wrong_track_loses_in_the_end(tracker):
    (frame, truth), *_ = film(Thing(RED, lambda _: (20, 20)), Thing(BLUE, lambda _: (100, 60)))
    tracker.restart(frame, said(truth[:1], 0.9))
    found_after = 0
    while iou(tracker.restart(frame, said(truth[1:], 0.88)).boolean[0], truth[1]) < 0.5:
        found_after += 1
    assert found_after == int(np.log(0.88 / 0.9) / np.log(FADING))


def test_what_is_said_of_the_same_place_is_believed(tracker):
    (frame, truth), *_ = film(Thing(RED, lambda _: (20, 20)))
    tracker.restart(frame, said(truth, 0.9))
    smaller = truth.copy()
    smaller[:, :45] = False
    masks = tracker.restart(frame, said(smaller, 0.5))
    np.testing.assert_array_equal(masks.boolean, smaller)
    assert masks.scores == np.float32([0.5])


def test_a_thing_leaves_and_is_found_again_by_the_words(tracker, leaving):
    for index, (frame, truth) in enumerate(leaving):
        is_key = index in (0, 13)
        masks = tracker.restart(frame, said(truth)) if is_key else tracker.follow(frame)
        if 6 <= index < 13:
            assert not masks.boolean.any(), "it is away, or back before the words are asked"
            assert not masks.scores.any()
            assert not masks.boxes_xyxy.any()
        else:
            assert iou(masks.boolean[0], truth[0]) > 0.6


@pytest.mark.parametrize("is_noticed", [False, True])
def test_while_a_thing_is_away_a_look_alike_must_be_as_sure(tracker, leaving, is_noticed):
    tracker.restart(leaving[0][0], said(leaving[0][1], 0.9))
    for frame, truth in leaving[1:9]:
        masks = tracker.restart(frame, said(truth, 0.9)) if is_noticed else tracker.follow(frame)
    assert not masks.boolean.any()
    frame, _ = leaving[8]
    elsewhere = np.zeros((1, *SIZE_HW), np.bool_)
    elsewhere[0, 60:90, 100:130] = True
    assert not tracker.restart(frame, said(elsewhere, 0.85)).boolean.any()
    np.testing.assert_array_equal(tracker.restart(frame, said(elsewhere, 0.9)).boolean, elsewhere)


def test_an_empty_mask_ends_a_track(tracker):
    (frame, truth), *_ = film(Thing(RED, lambda _: (20, 20)))
    tracker.restart(frame, said(truth))
    assert not tracker.restart(frame, said(np.zeros_like(truth))).boolean.any()
    assert not tracker.follow(frame).boolean.any()


def test_a_cut_ends_every_track(tracker):
    (frame, truth), *_ = film(Thing(RED, lambda _: (20, 20)))
    tracker.restart(frame, said(truth))
    assert not tracker.follow(np.full_like(frame, 250)).boolean.any()
    assert not tracker.follow(frame).boolean.any(), "only the words find it again"


def test_prompts_may_change(tracker, passing):
    tracker.restart(passing[0][0], said(passing[0][1]))
    frame, truth = passing[1]
    elsewhere = np.zeros_like(truth)
    elsewhere[:, 100:, :40] = True
    masks = tracker.restart(frame, said(elsewhere, 0.1, 0.1, labels=("blue", "green")))
    assert masks.labels == ("blue", "green")
    assert iou(masks.boolean[0], truth[1]) > 0.8, "blue is still where blue was"
    np.testing.assert_array_equal(masks.boolean[1], elsewhere[1])
    assert tracker.follow(passing[2][0]).labels == ("blue", "green")


@pytest.mark.parametrize("count", [0, 1, 9])
def test_any_number_of_masks(tracker, count):
    (frame, truth), (after, _), *_ = film(Thing(RED, lambda index: (20 + index, 20)))
    masks = said(np.repeat(truth, count, 0), labels=tuple("abcdefghi"))
    assert len(tracker.restart(frame, masks)) == count
    masks = tracker.follow(after)
    assert masks.boolean.shape == (count, *SIZE_HW)
    assert masks.boxes_xyxy.shape == (count, 4)
    assert masks.scores.shape == (count,)


def test_another_frame_size_needs_a_keyframe(tracker, passing):
    frame, truth = passing[0]
    tracker.restart(frame, said(truth))
    small, small_truth = frame[:100].copy(), truth[:, :100].copy()
    masks = tracker.follow(small)
    assert masks.boolean.shape == small_truth.shape
    assert not masks.boolean.any()
    assert not tracker.follow(frame).boolean.any(), "nor does it go on when the size returns"
    masks = tracker.restart(small, said(small_truth, 0.1, 0.1))
    np.testing.assert_array_equal(masks.boolean, small_truth)
    assert iou(tracker.follow(small).boolean, small_truth) > 0.95


def test_what_the_system_says_beside_its_masks_is_kept(tracker, passing):
    frame, truth = passing[0]
    masks = replace(said(truth), answer="a red one", timings_ms=(("image", 2.0),))
    assert tracker.restart(frame, masks).timings_ms == (("image", 2.0),)
    again = tracker.restart(frame, masks)
    assert [name for name, _ in again.timings_ms] == ["image", "flow", "warp"]
    assert again.answer == tracker.follow(frame).answer == "a red one"


def test_wrong_calls_say_what_to_do(tracker, passing):
    frame, truth = passing[0]
    with pytest.raises(UsageError, match="a keyframe must come before"):
        tracker.follow(frame)
    with pytest.raises(UsageError, match=r"got masks of \(120, 160\) for a frame of \(100, 160\)"):
        tracker.restart(frame[:100], said(truth))
    tracker.restart(frame, said(truth))
    for wrong in (frame[..., 0], frame.astype(np.float32)):
        with pytest.raises(FrameError):
            tracker.follow(wrong)


def test_a_bundle_opens_its_tracker(tiny_bundle, frame):
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        tracker = open_tracker(segmenter)
        masks = tracker.restart(frame, segmenter.segment(frame, ["the red square", "a blue one"]))
    assert masks.boolean.any((1, 2)).all()
    moved = tracker.follow(np.roll(frame, 4, 1))
    for index in range(2):
        assert iou(moved.boolean[index], np.roll(masks.boolean[index], 4, 1)) > 0.9
