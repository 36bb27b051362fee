import threading
import time

import numpy as np
import pytest

from saymask.runtime.errors import SourceError
from saymask.runtime.sources import live_frames
from saymask.runtime.sources.live_frames import LiveFrames

IMAGE = np.zeros((2, 2, 3), np.uint8)
MS = 1_000_000


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(live_frames, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(live_frames, "_LONGEST_PAUSE_S", 0.04)


class Plug:
    """A device that does what is listed at each connection: shots to yield, then its end."""

    def __init__(self, *connections: tuple[list, SourceError | None]) -> None:
        self._connections = iter(connections)
        self.opened_s: list[float] = []
        self.closed_count = 0

    def connect(self, closed):
        self.opened_s.append(time.monotonic())
        shots, error = next(self._connections, ([], SourceError("still gone")))
        try:
            yield from shots
            if error:
                raise error
        finally:
            self.closed_count += 1


def test_damaged_pictures_leave_their_numbers_out():
    shots = [(None, 1), (IMAGE, 20 * MS), (None, 30 * MS), (IMAGE, 40 * MS)]
    plug = Plug((shots, None))
    frames = list(LiveFrames("0", plug.connect))
    assert [(f.index, f.captured_ns, f.time_s) for f in frames] == [
        (0, 20 * MS, 0.0),
        (2, 40 * MS, 0.02),
    ]
    assert plug.closed_count == 1


def test_a_source_that_is_not_there_at_first_is_an_error_at_once():
    plug = Plug()
    with pytest.raises(SourceError, match="^still gone$"):
        next(LiveFrames("0", plug.connect))
    assert len(plug.opened_s) == 1


def test_a_source_that_was_there_is_taken_up_again_and_numbers_go_on(caplog):
    gone = SourceError("0 is silent")
    plug = Plug(([(IMAGE, 0)], gone), ([], gone), ([(IMAGE, MS)], gone), ([(IMAGE, MS)], None))
    assert [frame.index for frame in LiveFrames("0", plug.connect)] == [0, 1, 2]
    assert plug.closed_count == 4
    said = "0 is silent; trying again for 300 s"
    assert caplog.messages == [said, "0 is back", said, "0 is back"]


def test_pauses_double_to_a_bound_until_patience_ends():
    plug = Plug(([(IMAGE, 0)], SourceError("cut")))
    frames = LiveFrames("0", plug.connect, patience_s=0.2)
    next(frames)
    with pytest.raises(SourceError, match="must come back within 0 s; 0 did not: still gone"):
        next(frames)
    pauses_s = np.diff(plug.opened_s)
    assert len(pauses_s) >= 4
    assert (pauses_s >= np.minimum(0.01 * 2 ** np.arange(len(pauses_s)), 0.04) - 0.001).all()


def test_closing_from_another_thread_ends_a_pause_at_once(monkeypatch):
    monkeypatch.setattr(live_frames, "_FIRST_PAUSE_S", 60.0)
    plug = Plug(([(IMAGE, 0)], SourceError("cut")))
    frames = LiveFrames("0", plug.connect)
    next(frames)
    threading.Timer(0.1, frames.close).start()
    start_s = time.monotonic()
    assert next(frames, None) is None
    assert time.monotonic() - start_s < 5


def test_closing_lets_go_of_the_device_and_is_final():
    plug = Plug(([(IMAGE, 0)] * 3, None))
    frames = LiveFrames("0", plug.connect)
    next(frames)
    frames.close()
    assert plug.closed_count == 1
    assert list(frames) == []
    unopened = Plug(([(IMAGE, 0)], None))
    frames = LiveFrames("0", unopened.connect)
    frames.close()
    assert list(frames) == []
    assert unopened.opened_s == []
