"""What a tracker with a memory remembers and believes, on engines that know things by color."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import FrameError, UsageError
from saymask.runtime.live.memory_tracking import MOST_MEMORIES, MemoryTracker
from saymask.runtime.live.tracking import FADING, FlowTracker, open_tracker
from saymask.runtime.masks import Masks
from saymask.runtime.segmenter import Segmenter
from saymask.runtime.spec import StageSpec, TensorSpec

SIZE_HW = (90, 120)
RED, BLUE, GRAY = (255, 0, 0), (0, 0, 255), (128, 128, 128)
POINTERS = 16


class ColorEngine:
    """A stage in NumPy: an object's pointer is its mean color, its memory where that was."""

    device = "cpu"

    def __init__(self, name: str) -> None:
        shape = ("phrases", POINTERS, 4)
        self.stage = StageSpec(
            name=name,
            file="",
            inputs=(TensorSpec(name="pointers", dtype="float32", shape=shape),),
            outputs=(),
            precision="fp32",
            reason="",
        )
        self.runs: list[Mapping[str, np.ndarray]] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs.append(inputs)
        return getattr(self, f"_{self.stage.name}")(**inputs)

    def close(self) -> None:
        pass

    def _image(self, image: np.ndarray) -> dict[str, np.ndarray]:
        means = image.reshape(3, 16, 4, 16, 4).mean((2, 4))
        return {"image_embedding": np.concatenate([means, np.ones((1, 16, 16))])[None]}

    def _memory(self, image_embedding: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
        inside = masks.reshape(-1, 16, 4, 16, 4).mean((2, 4)) == 1
        pointer = np.stack([image_embedding[0][:, cells].mean(1) for cells in inside])
        pointer[:, 3] = -1.5
        return {"memory": self._where(inside), "pointer": pointer.astype(np.float32)}

    def _track(self, image_embedding, memories, ages, pointers, is_pointer):
        assert is_pointer[:, 0].all()
        assert (ages[:, 0] == 0).all()
        assert np.isfinite(memories).all()
        logits = np.einsum("nc,chw->nhw", pointers[:, 0], image_embedding[0])
        is_there = (logits > 0).any((1, 2))
        return {
            "logits": np.where(is_there[:, None, None], logits, -1024)[:, None].astype(np.float32),
            "memory": self._where(logits > 0),
            "pointer": pointers[:, 0] * is_there[:, None],
        }

    def _where(self, inside: np.ndarray) -> np.ndarray:
        return inside[:, None].astype(np.float32)


@pytest.fixture
def engines() -> dict[str, ColorEngine]:
    return {name: ColorEngine(name) for name in ("image", "memory", "track")}


@pytest.fixture
def tracker(engines, tiny_bundle) -> MemoryTracker:
    return MemoryTracker(engines, Bundle.read(tiny_bundle).view("sam"), threshold=0.0)


def scene(*things: tuple[tuple[int, int, int], int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A frame, and the truth of each thing: a square of 32 pixels in a color at left and top."""
    frame = np.full((*SIZE_HW, 3), GRAY, np.uint8)
    truth = np.zeros((len(things), *SIZE_HW), np.bool_)
    for index, (color, left, top) in reversed(list(enumerate(things))):
        y, x = np.indices(SIZE_HW)
        inside = (x >= left) & (x < left + 32) & (y >= top) & (y < top + 32)
        frame[inside] = color
        truth[:, inside] = False
        truth[index] = inside
    return frame, truth


def said(truth: np.ndarray, *scores: float, labels: tuple[str, ...] = ("red", "blue")) -> Masks:
    given = np.array(scores or [0.9] * len(truth), np.float32)
    return Masks.of(truth, np.where(truth.any((1, 2)), given, 0), labels[: len(truth)])


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max((one | other).sum(), 1)


def test_things_are_followed_through_a_crossing(tracker):
    frame, truth = scene((RED, 4, 20), (BLUE, 80, 30))
    masks = tracker.restart(frame, said(truth))
    np.testing.assert_array_equal(masks.boolean, truth)
    assert [name for name, _ in masks.timings_ms] == ["look", "remember"]
    for step in range(1, 13):
        frame, truth = scene((RED, 4 + 6 * step, 20), (BLUE, 80 - 6 * step, 30))
        masks = tracker.follow(frame)
        for mask_hw, true_hw in zip(masks.boolean, truth, strict=True):
            assert iou(mask_hw, true_hw) > 0.5, step
        np.testing.assert_array_equal(masks.boxes_xyxy, said(masks.boolean).boxes_xyxy)
        assert masks.labels == ("red", "blue")
        assert (masks.scores > 0.5).all()
        assert [name for name, _ in masks.timings_ms] == ["look", "track"]


def test_a_thing_that_leaves_is_found_again_without_words(tracker):
    tracker.restart(*_keyframe((RED, 20, 20)))
    for _ in range(30):
        masks = tracker.follow(scene()[0])
        assert not masks.boolean.any()
        assert not masks.scores.any()
    frame, truth = scene((RED, 70, 40))
    assert iou(tracker.follow(frame).boolean[0], truth[0]) > 0.6


def test_a_frame_remembers_its_keyframe_and_those_just_before(tracker, engines):
    tracker.restart(*_keyframe((RED, 20, 20)))
    for _ in range(20):
        tracker.follow(scene((RED, 24, 20))[0])
    runs = engines["track"].runs
    assert [run["ages"].tolist() for run in runs[:3]] == [[[0]], [[0, 1]], [[0, 2, 1]]]
    assert {tuple(run["ages"][0]) for run in runs[6:]} == {(0, 6, 5, 4, 3, 2, 1)}
    assert [run["is_pointer"].sum() for run in runs] == [*range(1, 16), *[16] * 5]
    for run in runs:
        assert run["memories"].shape[1] == run["ages"].shape[1] <= MOST_MEMORIES
        assert run["pointers"].shape == (1, POINTERS, 4)


def test_the_key_before_is_one_of_the_other_frames(tracker, engines):
    tracker.restart(*_keyframe((RED, 20, 20)))
    for _ in range(2):
        tracker.follow(scene((RED, 24, 20))[0])
    tracker.restart(*_keyframe((RED, 28, 20)))
    tracker.follow(scene((RED, 32, 20))[0])
    *_, at_key, after = engines["track"].runs
    assert at_key["ages"].tolist() == [[0, 2, 1]]
    assert after["ages"].tolist() == [[0, 4, 3, 2]]
    assert after["is_pointer"].sum() == 4
    newest = after["memories"][0, 0]
    np.testing.assert_array_equal(engines["memory"].runs[-1]["masks"].shape, (1, 1, 64, 64))
    assert newest[0, :, 3].any() != after["memories"][0, 1][0, :, 3].any()


def test_what_is_elsewhere_and_surer_is_new(tracker, engines):
    tracker.restart(*_keyframe((RED, 0, 0)))
    tracker.follow(scene((RED, 0, 0))[0])
    frame, truth = scene((BLUE, 80, 40), (RED, 0, 0))
    masks = tracker.restart(frame, said(truth[:1], 0.95))
    np.testing.assert_array_equal(masks.boolean, truth[:1])
    found = tracker.follow(frame)
    assert iou(found.boolean[0], truth[0]) > 0.6
    assert engines["track"].runs[-1]["ages"].tolist() == [[0]]


def test_a_track_stands_against_a_look_alike(tracker, engines):
    tracker.restart(*_keyframe((RED, 0, 0)))
    frame, truth = scene((RED, 4, 0), (BLUE, 80, 40))
    masks = tracker.restart(frame, said(truth[1:], 0.85))
    assert iou(masks.boolean[0], truth[0]) > 0.6
    assert [name for name, _ in masks.timings_ms] == ["look", "track"]
    assert len(engines["memory"].runs) == 1, "the key is still the first frame"
    tracker.follow(frame)
    assert engines["track"].runs[-1]["ages"].tolist() == [[0, 1]]
    away, _ = scene((BLUE, 80, 40))
    assert not tracker.restart(away, said(truth[1:], 0.85)).boolean.any(), "it is out of view"
    steps = int(np.log(0.85 / 0.9) / np.log(FADING))
    for _ in range(steps):
        tracker.follow(away)
    np.testing.assert_array_equal(tracker.restart(away, said(truth[1:], 0.85)).boolean, truth[1:])


def test_an_empty_mask_ends_a_track_and_nothing_runs(tracker, engines):
    frame, masks = _keyframe((RED, 20, 20))
    tracker.restart(frame, masks)
    empty = said(np.zeros_like(masks.boolean))
    assert not tracker.restart(frame, empty).boolean.any()
    ran = len(engines["image"].runs)
    assert not tracker.follow(frame).boolean.any()
    assert not tracker.restart(frame, empty).boolean.any()
    assert len(engines["image"].runs) == ran
    doubted = tracker.restart(*_keyframe((BLUE, 60, 40), scores=(0.8,)))
    assert not doubted.boolean.any(), "a look-alike must be as sure as the label was"
    assert tracker.restart(*_keyframe((RED, 20, 20), scores=(0.95,))).boolean.any()


def test_prompts_may_change(tracker, engines):
    frame, truth = scene((RED, 4, 20), (BLUE, 80, 30))
    tracker.restart(frame, said(truth))
    tracker.follow(frame)
    masks = tracker.restart(frame, said(truth[::-1], labels=("blue", "green")))
    assert masks.labels == ("blue", "green")
    found = tracker.follow(frame)
    for index in range(2):
        assert iou(found.boolean[index], truth[::-1][index]) > 0.6
    assert engines["track"].runs[-1]["ages"].tolist() == [[0, 3, 2], [0, -1, -1]]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_masks(tracker, count):
    frame, truth = scene((RED, 20, 20))
    masks = said(np.repeat(truth, count, 0), labels=tuple("abcde"))
    assert len(tracker.restart(frame, masks)) == count
    found = tracker.follow(frame)
    assert found.boolean.shape == (count, *SIZE_HW)
    assert found.boxes_xyxy.shape == (count, 4)
    assert found.scores.shape == (count,)
    assert found.scores.dtype == np.float32


def test_another_frame_size_needs_a_keyframe(tracker):
    frame, truth = scene((RED, 20, 20))
    tracker.restart(frame, said(truth))
    small, small_truth = frame[:64].copy(), truth[:, :64].copy()
    masks = tracker.follow(small)
    assert masks.boolean.shape == small_truth.shape
    assert not masks.boolean.any()
    assert not tracker.follow(frame).boolean.any(), "nor does it go on when the size returns"
    masks = tracker.restart(small, said(small_truth, 0.1))
    np.testing.assert_array_equal(masks.boolean, small_truth)
    assert iou(tracker.follow(small).boolean, small_truth) > 0.6


def test_what_the_system_says_beside_its_masks_is_kept(tracker):
    frame, masks = _keyframe((RED, 20, 20))
    masks = replace(masks, answer="a red one", timings_ms=(("image", 2.0),))
    tracker.restart(frame, masks)
    again = tracker.restart(frame, masks)
    assert [name for name, _ in again.timings_ms] == ["image", "look", "track", "remember"]
    assert again.answer == tracker.follow(frame).answer == "a red one"


def test_wrong_calls_say_what_to_do(tracker):
    frame, masks = _keyframe((RED, 20, 20))
    with pytest.raises(UsageError, match="a keyframe must come before"):
        tracker.follow(frame)
    with pytest.raises(UsageError, match=r"have its size \(64, 120\); got \(90, 120\)"):
        tracker.restart(frame[:64], masks)
    tracker.restart(frame, masks)
    for wrong in (frame[..., 0], frame.astype(np.float32)):
        with pytest.raises(FrameError):
            tracker.follow(wrong)


def test_a_bundle_without_memory_takes_optical_flow(tiny_bundle):
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        assert segmenter.open_tracker() is None
        assert isinstance(open_tracker(segmenter), FlowTracker)


def _keyframe(
    *things: tuple[tuple[int, int, int], int, int], scores: tuple[float, ...] = ()
) -> tuple[np.ndarray, Masks]:
    frame, truth = scene(*things)
    return frame, said(truth, *scores)
