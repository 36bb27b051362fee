"""A stream on the tiny bundle's real engines, and what may go wrong at each of its stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from saymask.runtime.errors import EngineError, OutputError, PromptError, SourceError
from saymask.runtime.live import LivePolicy, run_live
from saymask.runtime.live.prompt_board import PromptBoard
from saymask.runtime.segmenter import Segmenter
from saymask.runtime.sinks import Sink
from saymask.runtime.sources.frame import Frame


@pytest.fixture(scope="module")
def segmenter(tiny_bundle):
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        yield segmenter


@pytest.fixture
def board() -> PromptBoard:
    return PromptBoard("the red square")


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def until() -> Iterator[threading.Event]:
    """Keeps what waits for it waiting until the test is over."""
    event = threading.Event()
    yield event
    event.set()
    deadline_s = time.monotonic() + 5
    while _threads() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not _threads()


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("saymask")]


class Moving:
    """The square that moves a pixel to the right with each frame; `error` comes after the last."""

    name = "square"
    is_moving = True

    def __init__(self, image_hwc, count, *, rate_hz=None, error=None, wait=None):
        self.is_live = rate_hz is not None
        self._image_hwc, self._count, self._rate_hz = image_hwc, count, rate_hz
        self._error, self._wait = error, wait

    def frames(self):
        for index in range(self._count):
            if self._rate_hz:
                time.sleep(1 / self._rate_hz)
            yield Frame(
                image_hwc=np.roll(self._image_hwc, index, axis=1),
                name=self.name,
                index=index,
                captured_ns=time.monotonic_ns(),
                time_s=index / 25,
            )
        if self._wait:
            self._wait.wait()
        if self._error:
            raise self._error


class Noted(Sink):
    """Notes what comes; does something first."""

    def __init__(self, first=lambda frame: None):
        self._first = first
        self.indices, self.labels, self.ages_ms, self.boxes = [], [], [], []
        self.is_complete = False

    def write(self, frame, masks):
        self.ages_ms.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
        self._first(frame)
        self.indices.append(frame.index)
        self.labels.append(masks.labels)
        self.boxes.append(masks.boxes_xyxy)

    def __exit__(self, *_):
        self.is_complete = True


def _raises(error):
    def act(*_):
        raise error

    return act


def test_a_files_frames_all_come_in_order_to_every_sink(segmenter, board, stop, frame):
    quick, slow = Noted(), Noted(lambda _: time.sleep(0.01))
    report = run_live(segmenter, Moving(frame, 30), board, [quick, slow], LivePolicy(), stop)
    assert quick.indices == slow.indices == list(range(30))
    assert (report.frames, report.keyframes, report.dropped, report.late) == (30, 30, 0, 0)
    assert report.seconds >= 0.3
    assert report.age_ms.p50 >= 10
    assert quick.is_complete
    assert slow.is_complete
    truth = segmenter.segment(np.roll(frame, 5, axis=1), "the red square")
    np.testing.assert_array_equal(quick.boxes[5], truth.boxes_xyxy)
    assert not _threads()


def test_behind_a_slow_consumer_a_live_stream_drops_frames_and_stays_young(
    segmenter, board, stop, frame
):
    slow = Noted(lambda _: time.sleep(0.1))
    source = Moving(frame, 300, rate_hz=250)
    report = run_live(segmenter, source, board, [slow], LivePolicy(), stop)
    assert slow.indices == sorted(set(slow.indices))
    assert report.dropped == 300 - report.frames > 150
    # Without any wait it would be some 10 ms; a frame that waited its turn would be 100 older.
    assert np.median(slow.ages_ms) < 90


def test_a_live_frame_waits_for_no_engine_and_no_engine_for_frames(
    segmenter, board, stop, frame, monkeypatch
):
    prepare, infer = segmenter.prepare, segmenter.infer
    prepared_s, begun_s, done_s = [], [], []

    def noted_prepare(*values):
        work = prepare(*values)
        prepared_s.append(time.monotonic())
        return work

    def slow_infer(work):
        begun_s.append(time.monotonic())
        time.sleep(0.05)
        work = infer(work)
        done_s.append(time.monotonic())
        return work

    monkeypatch.setattr(segmenter, "prepare", noted_prepare)
    monkeypatch.setattr(segmenter, "infer", slow_infer)
    run_live(segmenter, Moving(frame, 250, rate_hz=250), board, [Noted()], LivePolicy(), stop)
    waits_s = np.subtract(begun_s, prepared_s)
    rests_s = np.subtract(begun_s[1:], done_s[:-1])
    assert len(begun_s) > 8
    assert np.median(waits_s) < 0.02
    assert np.median(rests_s) < 0.02


def test_prompts_change_while_it_runs_and_bad_ones_do_not_end_it(
    segmenter, board, stop, frame, caplog
):
    posts = {3: "a blue one", 10: "red " * 2500, 20: ["the red square", "blue"]}

    def post(seen):
        if seen.index in posts:
            board.post(posts[seen.index])

    noted = Noted(post)
    run_live(segmenter, Moving(frame, 40), board, [noted], LivePolicy(), stop)
    assert noted.indices == list(range(40))
    changes = [index for index in range(1, 40) if noted.labels[index] != noted.labels[index - 1]]
    # A frame that waits in a slot or is in work had its prompts already.
    assert [len(noted.labels[index]) for index in changes] == [1, 2]
    assert 4 <= changes[0] <= 9
    assert 21 <= changes[1] <= 26
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "prompts stay as they were" in caplog.text


def test_first_prompts_that_cannot_be_read_end_it_before_it_begins(segmenter, stop, frame):
    with pytest.raises(PromptError, match="at most 16 tokens"):
        run_live(
            segmenter, Moving(frame, 5), PromptBoard("red " * 40), [Noted()], LivePolicy(), stop
        )
    assert not _threads()


def test_between_keyframes_masks_are_tracked(segmenter, board, stop, frame, monkeypatch):
    calls, infer = [], segmenter.infer
    monkeypatch.setattr(segmenter, "infer", lambda work: calls.append(1) or infer(work))
    noted = Noted()
    report = run_live(segmenter, Moving(frame, 25), board, [noted], LivePolicy(every=10), stop)
    assert (report.frames, report.keyframes, len(calls)) == (25, 3, 3)
    assert noted.indices == list(range(25))
    assert {labels for labels in noted.labels} == {("the red square",)}
    lefts = [boxes[0, 0] for boxes in noted.boxes]
    np.testing.assert_allclose(lefts, np.arange(25) + 10, atol=5)


@pytest.mark.parametrize("is_live", [False, True])
def test_what_came_before_a_sources_error_is_written(segmenter, board, stop, frame, is_live):
    noted = Noted()
    rate_hz = 20 if is_live else None
    source = Moving(frame, 6, rate_hz=rate_hz, error=SourceError("the tape is torn"))
    with pytest.raises(SourceError, match="torn"):
        run_live(segmenter, source, board, [noted], LivePolicy(), stop)
    assert noted.indices[-1] == 5
    assert is_live or len(noted.indices) == 6
    assert noted.is_complete
    assert not _threads()


@pytest.mark.parametrize("step", ["prepare", "infer", "finish"])
@pytest.mark.parametrize("rate_hz", [None, 100])
def test_a_step_that_raises_ends_it_after_what_was_done(
    segmenter, board, stop, frame, monkeypatch, step, rate_hz
):
    sound, count = getattr(segmenter, step), iter(range(1000))

    def act(*values):
        if next(count) == 5:
            raise EngineError("the device fell off the bus")
        return sound(*values)

    monkeypatch.setattr(segmenter, step, act)
    noted = Noted()
    source = Moving(frame, 100, rate_hz=rate_hz)
    with pytest.raises(EngineError, match="fell off"):
        run_live(segmenter, source, board, [noted], LivePolicy(), stop)
    assert len(noted.indices) == 5
    assert noted.is_complete
    assert not _threads()


@pytest.mark.parametrize("place", ["__enter__", "write", "__exit__"])
def test_a_sink_that_raises_leaves_the_others_complete(segmenter, board, stop, frame, place):
    before, after = Noted(), Noted()
    bad = type("Bad", (Noted,), {place: _raises(OSError(28, "No space left"))})()
    with pytest.raises(OSError, match="No space left"):
        run_live(segmenter, Moving(frame, 9), board, [before, bad, after], LivePolicy(), stop)
    assert before.is_complete
    assert after.is_complete == (place != "__enter__")
    assert len(before.indices) == {"__enter__": 0, "write": 1, "__exit__": 9}[place]
    assert not _threads()


def test_stop_ends_it_at_once_though_the_camera_blocks(segmenter, board, stop, frame, until):
    noted = Noted()
    threading.Timer(0.3, stop.set).start()
    begin_s = time.monotonic()
    source = Moving(frame, 3, rate_hz=50, wait=until)
    report = run_live(segmenter, source, board, [noted], LivePolicy(), stop)
    assert time.monotonic() - begin_s < 1.5
    assert report.frames == len(noted.indices) == 3
    assert noted.is_complete


def test_stop_lets_the_engines_finish_their_frame_and_begin_no_other(
    segmenter, board, stop, frame, monkeypatch
):
    infer, begun = segmenter.infer, []

    def act(work):
        begun.append(work)
        time.sleep(0.1)
        return infer(work)

    monkeypatch.setattr(segmenter, "infer", act)
    threading.Timer(0.25, stop.set).start()
    noted = Noted()
    report = run_live(segmenter, Moving(frame, 1000), board, [noted], LivePolicy(), stop)
    assert report.frames == len(begun) == len(noted.indices) <= 4
    assert report.seconds < 1


@pytest.mark.parametrize(
    ("stage", "kind", "said"),
    [
        ("source", SourceError, r"'source' \(square\) did not; look at the camera"),
        ("prepare", EngineError, "'prepare' did not"),
        ("infer", EngineError, "'infer' did not; look at the device"),
        ("finish", OutputError, "'output' did not"),
        ("write", OutputError, r"'output' \(Noted\) did not; look at the disk"),
    ],
)
def test_the_stage_that_is_stuck_is_named(
    segmenter, board, stop, frame, monkeypatch, until, stage, kind, said
):
    """Each stage hangs at the frame after the third."""
    count = iter(range(1000))

    def hang(*values):
        if next(count) == 3:
            until.wait()
        return sound(*values)

    if stage in ("prepare", "infer", "finish"):
        sound = getattr(segmenter, stage)
        monkeypatch.setattr(segmenter, stage, hang)
    sound_sink, other = Noted(), Noted()
    hanging = Noted(lambda seen: stage == "write" and seen.index == 3 and until.wait())
    source = Moving(frame, 3 if stage == "source" else 99, wait=until)
    begin_s = time.monotonic()
    policy = LivePolicy(stall_s=0.4, source_stall_s=0.4)
    with pytest.raises(kind, match=f"within 0.4 s; {said}"):
        run_live(segmenter, source, board, [sound_sink, hanging, other], policy, stop)
    assert time.monotonic() - begin_s < 2.5
    assert hanging.indices == other.indices == [0, 1, 2]
    assert sound_sink.is_complete
    assert other.is_complete
    assert hanging.is_complete == (stage != "write")


def test_a_slow_stage_is_no_stuck_stage(segmenter, board, stop, frame):
    """Each frame takes less than the limit, all of them more."""
    slow = Noted(lambda _: time.sleep(0.1))
    policy = LivePolicy(stall_s=0.4, source_stall_s=0.4)
    assert run_live(segmenter, Moving(frame, 8), board, [slow], policy, stop).frames == 8


def test_an_interrupt_of_the_caller_completes_the_outputs(segmenter, board, frame):
    noted, looks = Noted(), iter(range(1000))
    stop = SimpleNamespace(is_set=lambda: next(looks) == 3 and _raises(KeyboardInterrupt())())
    with pytest.raises(KeyboardInterrupt):
        run_live(segmenter, Moving(frame, 10_000), board, [noted], LivePolicy(), stop)
    assert noted.is_complete
    assert 0 < len(noted.indices) < 10_000
    assert not _threads()


def test_starting_and_stopping_leaves_nothing_behind(segmenter, board, frame):
    for number in range(40):
        stop = threading.Event()
        source = Moving(frame, 50, rate_hz=500 if number % 2 else None)
        stopper = Noted(lambda seen, stop=stop, last=number % 5: seen.index >= last and stop.set())
        run_live(segmenter, source, board, [stopper], LivePolicy(), stop)
        assert stopper.is_complete
        assert not _threads()
