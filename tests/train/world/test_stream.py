from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from saymask.runtime.errors import UnknownNameError, UsageError
from saymask.runtime.sources.mailbox import newest
from saymask.train.world.stream import open_source
from saymask.train.world.truth import Target, mask_of

SMALL = "size=96x64&loop=5"


def test_frames_are_due_at_the_rate_and_play_forth_and_back() -> None:
    source = open_source(f"test://tabletop?{SMALL}&fps=100&seconds=0.2&seed=3")
    frames = list(source.frames())
    assert source.is_live
    assert source.is_moving
    assert [frame.index for frame in frames] == list(range(20))
    assert {frame.captured_ns - frames[0].captured_ns for frame in frames} == {
        index * 10_000_000 for index in range(20)
    }
    for frame in frames[1:8]:
        same = frames[8 - frame.index]
        assert frame.image_hwc is same.image_hwc
    assert any((one.image_hwc != frames[0].image_hwc).any() for one in frames)


def test_a_reader_that_comes_late_does_not_delay_the_frames() -> None:
    frames = open_source(f"test://tabletop?{SMALL}&fps=50").frames()
    first = next(frames)
    time.sleep(0.2)
    late = [next(frames) for _ in range(8)]
    assert [frame.captured_ns - first.captured_ns for frame in late] == [
        index * 20_000_000 for index in range(1, 9)
    ]
    assert time.monotonic_ns() - late[0].captured_ns > 150_000_000
    frames.close()


def test_no_frame_is_handed_out_before_it_is_due() -> None:
    frames = open_source(f"test://tabletop?{SMALL}&fps=50&seconds=0.3").frames()
    assert all(time.monotonic_ns() >= frame.captured_ns for frame in frames)


def test_two_plays_show_the_same_and_nobody_may_paint_on_it() -> None:
    address = f"test://tabletop?{SMALL}&fps=200&seconds=0.02"
    first, second = (list(open_source(address).frames()) for _ in range(2))
    assert len(first) == 4
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image_hwc, other.image_hwc)
    assert first[0].image_hwc.shape == (64, 96, 3)
    with pytest.raises(ValueError, match="read-only"):
        first[0].image_hwc[0] = 0


def test_truth_is_that_of_the_frame() -> None:
    source = open_source(f"test://tabletop?{SMALL}&fps=200&seconds=0.1&seed=4")
    for frame in source.frames():
        truth = source.truth(frame.index)
        np.testing.assert_array_equal(truth.image_hwc, frame.image_hwc)


def test_phrases_name_one_object_in_every_frame(fitting) -> None:
    source = open_source("test://tabletop?size=320x240&loop=9&seed=4")
    assert len(source.phrases) >= 3
    for text, index in source.phrases:
        assert text.startswith("the ")
        drawings = [source.truth(number) for number in range(9)]
        assert all(fitting(drawing, text) <= {index} for drawing in drawings)
        assert fitting(drawings[0], text) == {index}
        assert mask_of(drawings[0], (Target(object_index=index, part=None),)).any()


def test_the_newest_frame_of_a_fast_stream_is_taken_and_the_others_are_counted() -> None:
    source = open_source(f"test://tabletop?{SMALL}&fps=500&seconds=0.4")
    indices = []
    with newest(source.frames()) as box:
        for frame in box:
            indices.append(frame.index)
            time.sleep(0.02)
        assert len(indices) + box.dropped == 200
    assert indices[-1] == 199
    assert len(indices) < 40


def test_closing_ends_the_wait_for_a_frame_and_the_drawing_at_once() -> None:
    slow = open_source(f"test://tabletop?{SMALL}&fps=0.01").frames()
    next(slow)
    large = open_source("test://tabletop?size=640x480&loop=2000").frames()
    for frames in (slow, large):
        threading.Timer(0.2, frames.close).start()
        start_s = time.monotonic()
        assert next(frames, None) is None
        assert time.monotonic() - start_s < 3


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("fps=0", "fps must be a number above 0, as 30; got '0'"),
        ("size=1x1", "size must be WIDTHxHEIGHT, each 16 to 8192"),
        ("seed=-1", "seed must be a whole number, 0 or more; got '-1'"),
        ("loop=1", "must be at least 2, got 1"),
        ("loop=9999&size=1920x1080", "must fit in 2048 MiB; .* takes 59320"),
        ("rate=30", "must be one of fps, loop, seconds, seed, size; got 'rate'"),
    ],
)
def test_what_makes_no_sense_is_refused(query: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_source(f"test://tabletop?{query}")


def test_another_place_is_unknown() -> None:
    with pytest.raises(UnknownNameError, match="must be one of tabletop; got 'desk'"):
        open_source("test://desk")
