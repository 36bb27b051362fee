import threading
import time

import numpy as np
import pytest

from saymask.runtime.errors import PromptError, UsageError
from saymask.runtime.live.policy import LivePolicy, Pickup
from saymask.runtime.live.prompt_board import PromptBoard
from saymask.runtime.live.stages import INFER, OUTPUT, PREPARE, Slot, StageClock
from saymask.runtime.segmenter import Segmenter
from saymask.runtime.sources.frame import Frame


@pytest.fixture(scope="module")
def segmenter(tiny_bundle):
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        yield segmenter


def _frame(index: int, age_ms: float = 0.0, size: int = 4) -> Frame:
    return Frame(
        image_hwc=np.zeros((size, size, 3), np.uint8),
        name="camera",
        index=index,
        captured_ns=time.monotonic_ns() - round(age_ms * 1e6),
        time_s=0.0,
    )


def _clock(infer_ms: float = 0.0, output_ms: float = 0.0) -> StageClock:
    """Make a clock whose stages have worked once."""
    clock = StageClock()
    for stage, ms in ((INFER, infer_ms), (OUTPUT, output_ms)):
        with clock.working(stage):
            time.sleep(ms / 1e3)
    return clock


def _picked(segmenter, policy, frames, *, board=None, clock=None, is_live=False):
    """Pick from `frames`, each of which is done before the next: indices, and which are keys."""
    board = board or PromptBoard("red")
    pickup = Pickup(segmenter, board, policy, clock or StageClock(), Slot(), is_live=is_live)
    taken = []
    for picked in pickup.picked(iter(frames)):
        pickup.release()
        taken.append((picked.frame.index, picked.is_key))
    return taken, pickup


@pytest.mark.parametrize(
    "numbers", [{"every": 0}, {"latency_budget_ms": 0.0}, {"stall_s": -1.0}, {"source_stall_s": 0}]
)
def test_a_policy_that_makes_no_sense_is_refused(numbers):
    with pytest.raises(UsageError, match="must be above 0"):
        LivePolicy(**numbers)


def test_every_nth_frame_is_a_keyframe(segmenter):
    taken, _ = _picked(segmenter, LivePolicy(every=3), map(_frame, range(8)))
    assert [index for index, is_key in taken if is_key] == [0, 3, 6]
    taken, _ = _picked(segmenter, LivePolicy(), map(_frame, range(3)))
    assert all(is_key for _, is_key in taken)


def test_new_prompts_and_another_size_make_a_keyframe(segmenter):
    board = PromptBoard("red")

    def frames():
        for index in range(8):
            if index == 2:
                board.post("blue")
            yield _frame(index, size=6 if index >= 5 else 4)

    taken, _ = _picked(segmenter, LivePolicy(every=100), frames(), board=board)
    assert [index for index, is_key in taken if is_key] == [0, 2, 5]


def test_prompts_that_cannot_be_read_leave_the_old_ones(segmenter, caplog):
    board = PromptBoard("red")
    pickup = Pickup(segmenter, board, LivePolicy(every=9), StageClock(), Slot(), is_live=False)
    picked = pickup.picked(map(_frame, range(9)))
    assert next(picked).prompts[0].text == "red"
    board.post("red " * 2500)
    after = next(picked)
    assert (after.prompts[0].text, after.is_key) == ("red", False)
    (record,) = caplog.records
    assert record.message.startswith("the prompts stay as they were: a prompt must have at most 16")
    assert len(record.message) < 250
    board.post(["blue", "red"])
    after = next(picked)
    assert ([prompt.text for prompt in after.prompts], after.is_key) == (["blue", "red"], True)
    with pytest.raises(PromptError, match="at most 16 tokens"):
        Pickup(
            segmenter, PromptBoard("red " * 40), LivePolicy(), StageClock(), Slot(), is_live=True
        )


def test_a_keyframe_that_would_be_late_is_put_off_but_not_for_ever(segmenter):
    policy, clock = LivePolicy(every=2, latency_budget_ms=30), _clock(infer_ms=40)
    taken, pickup = _picked(segmenter, policy, map(_frame, range(18)), clock=clock, is_live=True)
    assert [index for index, is_key in taken if is_key] == [0, 8, 16]
    assert pickup.skipped == 0


def test_a_frame_that_is_too_old_is_skipped_for_a_newer_one(segmenter):
    policy, clock = LivePolicy(latency_budget_ms=100), _clock(infer_ms=5)
    frames = [_frame(0), _frame(1, age_ms=200), _frame(2), _frame(3, age_ms=200)]
    taken, pickup = _picked(segmenter, policy, frames, clock=clock, is_live=True)
    assert ([index for index, _ in taken], pickup.skipped) == ([0, 2], 2)


def test_skipping_never_starves_a_source_that_is_always_late(segmenter):
    policy = LivePolicy(latency_budget_ms=50)
    frames = [_frame(index, age_ms=200) for index in range(6)]
    taken, _ = _picked(segmenter, policy, frames, is_live=True)
    assert [index for index, _ in taken] == [1, 3, 5]


def test_nothing_is_skipped_where_the_engines_alone_exceed_the_budget(segmenter):
    policy = LivePolicy(latency_budget_ms=5)
    taken, pickup = _picked(
        segmenter, policy, map(_frame, range(4)), clock=_clock(infer_ms=20), is_live=True
    )
    assert (len(taken), pickup.skipped) == (4, 0)


def test_a_files_frames_are_all_taken_however_old(segmenter):
    frames = [_frame(index, age_ms=500) for index in range(4)]
    taken, _ = _picked(segmenter, LivePolicy(latency_budget_ms=1), frames)
    assert len(taken) == 4


@pytest.mark.parametrize(("busy", "before"), [(INFER, PREPARE), (OUTPUT, INFER)])
def test_a_live_frame_is_picked_up_when_it_will_meet_a_free_stage(segmenter, busy, before):
    clock = StageClock()
    for stage, ms in ((before, 60), (busy, 120)):
        with clock.working(stage):
            time.sleep(ms / 1e3)
    busy_ms, before_ms = clock.usual_ns(busy) / 1e6, clock.usual_ns(before) / 1e6
    pickup = Pickup(segmenter, PromptBoard("red"), LivePolicy(), clock, Slot(), is_live=True)
    picked = pickup.picked(map(_frame, range(2)))
    next(picked)
    begin_ns = time.monotonic_ns()
    with clock.working(busy):
        next(picked)
        waited_ms = (time.monotonic_ns() - begin_ns) / 1e6
    assert waited_ms >= busy_ms - before_ms - 5
    assert waited_ms < busy_ms - before_ms + 50


def test_behind_a_frame_that_waits_already_none_is_picked_up(segmenter):
    prepared = Slot()
    prepared.put("a frame")
    pickup = Pickup(
        segmenter, PromptBoard("red"), LivePolicy(), StageClock(), prepared, is_live=True
    )
    threading.Timer(0.1, prepared.close).start()
    begin_s = time.monotonic()
    assert list(pickup.picked(map(_frame, range(9)))) == []
    assert time.monotonic() - begin_s >= 0.1
