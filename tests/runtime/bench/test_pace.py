import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from saymask.runtime.bench.pace import Paced
from saymask.runtime.errors import SourceError
from saymask.runtime.sources import open_sources
from saymask.runtime.sources.frame import Frame


class Pictures:
    """Two pictures that take a time of their own to decode."""

    name = "pictures"
    is_moving = True
    is_live = False

    def __init__(self, *pauses_s: float) -> None:
        self._pauses_s = pauses_s

    def frames(self) -> Iterator[Frame]:
        for index, pause_s in enumerate(self._pauses_s):
            time.sleep(pause_s)
            yield Frame(
                image_hwc=np.full((2, 3, 3), index, np.uint8),
                name=self.name,
                index=index,
                captured_ns=0,
                time_s=None,
            )


def _taken(source: Paced, count: int) -> list[Frame]:
    frames = source.frames()
    taken = list(islice(frames, count))
    frames.close()
    return taken


def test_frames_are_due_at_the_rate_and_come_again(image_file):
    start_ns = time.monotonic_ns()
    frames = _taken(Paced(open_sources(str(image_file)), 50.0), 6)
    assert [frame.index for frame in frames] == list(range(6))
    gaps = np.diff([frame.captured_ns for frame in frames])
    assert np.abs(gaps - 20e6).max() <= 1
    assert time.monotonic_ns() >= frames[-1].captured_ns > start_ns + 0.09e9
    assert frames[2].time_s == pytest.approx(0.04)
    assert frames[0].name == str(image_file)
    assert all((frame.image_hwc == frames[0].image_hwc).all() for frame in frames)


def test_moments_without_a_decoded_frame_are_left_out():
    frames = _taken(Paced([Pictures(0.0, 0.055)], 50.0), 4)
    indices = [frame.index for frame in frames]
    assert indices[0] == 0
    assert indices[1] >= 2
    assert indices == sorted(set(indices))
    start_ns = frames[0].captured_ns
    for frame in frames:
        assert frame.captured_ns - start_ns == pytest.approx(frame.index * 20e6, abs=2)


def test_whoever_takes_slowly_gets_every_frame_late():
    """The loop is open: the next frame is due when it is due, and its age shows the wait."""
    frames = Paced([Pictures(0.0, 0.0)], 100.0).frames()
    first = next(frames)
    time.sleep(0.035)
    second = next(frames)
    assert second.index >= 3
    assert second.captured_ns == first.captured_ns + second.index * 10_000_000
    frames.close()


def test_no_frame_at_all_is_an_error():
    with pytest.raises(SourceError, match="pictures has none"):
        next(Paced([Pictures()], 50.0).frames())


def test_many_sources_are_named_by_their_number():
    assert Paced([Pictures(), Pictures()], 1.0).name == "2 sources"
