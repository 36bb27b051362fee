import threading
import time

import numpy as np
import pytest

from saymask.runtime.errors import SourceError
from saymask.runtime.sources.frame import Frame
from saymask.runtime.sources.mailbox import newest

IMAGE = np.zeros((2, 2, 3), np.uint8)


def _frame(index: int) -> Frame:
    return Frame(image_hwc=IMAGE, name="0", index=index, captured_ns=index, time_s=0.0)


class Camera:
    """Gives a frame each time it is told to; `let_go` says that it was closed."""

    def __init__(self) -> None:
        self._go = threading.Semaphore(0)
        self._asked = threading.Semaphore(0)
        self.error: Exception | None = None
        self.let_go = threading.Event()

    def frames(self):
        try:
            for index in range(1000):
                self._asked.release()
                assert self._go.acquire(timeout=5)
                if self.error:
                    raise self.error
                yield _frame(index)
        finally:
            self.let_go.set()

    def shoot(self, count: int = 1) -> None:
        """Return when `count` frames lie in the mailbox, as the next one is asked for."""
        for _ in range(count):
            assert self._asked.acquire(timeout=5)
            self._go.release()
        assert self._asked.acquire(timeout=5)
        self._asked.release()


@pytest.fixture
def camera():
    return Camera()


def test_only_the_newest_frame_is_kept_and_the_others_are_counted(camera):
    with newest(camera.frames()) as box:
        camera.shoot(5)
        assert next(box).index == 4
        assert box.dropped == 4
        camera.shoot(2)
        assert next(box).index == 6
        assert box.dropped == 5
        camera.shoot(0)
        camera._go.release()


def test_a_taker_that_keeps_up_gets_every_frame():
    def frames():
        for index in range(20):
            yield _frame(index)
            time.sleep(0.01)

    with newest(frames()) as box:
        indices = [frame.index for frame in box]
    assert indices[-1] == 19
    assert len(indices) + box.dropped == 20


def test_an_error_comes_after_the_last_frame_and_once(camera):
    box = newest(camera.frames())
    camera.shoot(2)
    camera.error = SourceError("the camera is gone")
    camera._go.release()
    assert camera.let_go.wait(5)
    assert next(box).index == 1
    with pytest.raises(SourceError, match="the camera is gone"):
        next(box)
    with pytest.raises(StopIteration):
        next(box)


def test_closing_wakes_who_waits_and_stops_the_reader(camera):
    box = newest(camera.frames())
    taken: list[Frame] = []
    taker = threading.Thread(target=lambda: taken.extend(box))
    taker.start()
    closer = threading.Thread(target=box.close)
    closer.start()
    taker.join(5)
    assert not taker.is_alive()
    camera._go.release()  # the device answers at last
    closer.join(5)
    assert not closer.is_alive()
    assert camera.let_go.is_set()
    assert taken == []
    box.close()


def test_a_source_that_never_answers_is_left_with_a_warning(monkeypatch, caplog, camera):
    monkeypatch.setattr("saymask.runtime.sources.mailbox._JOIN_S", 0.05)
    box = newest(camera.frames())
    camera.shoot(1)
    box.close()
    assert "still blocks" in caplog.text
    camera._go.release()
    assert camera.let_go.wait(5)


def test_frames_need_not_be_closable():
    with newest(iter([_frame(0), _frame(1)])) as box:
        assert [frame.index for frame in box][-1] == 1
