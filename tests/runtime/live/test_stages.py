import math
import threading
import time

import numpy as np
import pytest

from saymask.runtime.live.stages import ReadAhead, Slot, StageClock
from saymask.runtime.sources.frame import Frame


def _frame(index: int) -> Frame:
    image_hwc = np.zeros((2, 2, 3), np.uint8)
    return Frame(image_hwc=image_hwc, name="clip", index=index, captured_ns=0, time_s=0.0)


def _in_thread(target) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_a_slot_hands_things_over_in_order_and_holds_one():
    slot = Slot()
    most = []

    def fill():
        for number in range(50):
            slot.put(number)
            most.append(len(slot))
        slot.close()

    thread = _in_thread(fill)
    assert list(slot) == list(range(50))
    thread.join(1)
    assert max(most) == 1


def test_a_closed_slot_gives_what_it_has_and_takes_nothing():
    kept, emptied = Slot(), Slot()
    for slot in (kept, emptied):
        assert slot.put("thing")
    kept.close()
    emptied.close(keeps=False)
    assert not kept.put("more")
    assert (list(kept), list(emptied)) == (["thing"], [])


def test_closing_a_slot_wakes_who_waits_on_either_side():
    full, empty = Slot(), Slot()
    full.put(0)
    ends = []
    threads = [
        _in_thread(lambda: ends.append(full.put(1))),
        _in_thread(lambda: ends.append(next(empty, "nothing"))),
    ]
    time.sleep(0.02)
    full.close()
    empty.close()
    for thread in threads:
        thread.join(1)
    assert sorted(map(str, ends)) == ["False", "nothing"]


def test_reading_ahead_drops_nothing_and_ends_with_the_sources_error():
    def frames():
        yield from map(_frame, range(5))
        raise ValueError("the tape is torn")

    ahead = ReadAhead(frames())
    seen = [next(ahead).index]
    time.sleep(0.05)
    with pytest.raises(ValueError, match="torn"):
        seen.extend(frame.index for frame in ahead)
    assert seen == list(range(5))
    assert next(ahead, None) is None


def test_closing_lets_go_of_the_file_and_ends_the_thread():
    closed = threading.Event()

    def frames():
        try:
            for index in range(1000):
                yield _frame(index)
        finally:
            closed.set()

    ahead = ReadAhead(frames())
    assert next(ahead).index == 0
    ahead.close()
    assert closed.is_set()
    assert next(ahead, None) is None
    assert not any(thread.name == "saymask-source" for thread in threading.enumerate())


def test_the_clock_knows_what_is_usual_and_what_is_left():
    clock = StageClock()
    assert (clock.usual_ns("infer"), clock.left_ns("infer")) == (0, 0)
    with clock.working("infer"):
        assert clock.left_ns("infer") == math.inf
        assert clock.is_working("infer")
        time.sleep(0.05)
    assert 0.05e9 <= clock.usual_ns("infer") < 0.5e9
    with clock.working("infer"):
        assert 0 < clock.left_ns("infer") <= clock.usual_ns("infer")
        assert 0 <= clock.busy_s()["infer"] < 0.05
        time.sleep(clock.usual_ns("infer") / 1e9)
        assert clock.left_ns("infer") == 0
    assert not clock.busy_s()


def test_a_stage_that_raises_is_at_rest_again():
    clock = StageClock()
    with pytest.raises(ValueError, match="no"), clock.working("prepare"):
        raise ValueError("no")
    assert not clock.is_working("prepare")
