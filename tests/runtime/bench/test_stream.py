import threading
import time

import numpy as np
import pytest

from saymask.runtime.bench.pace import Paced
from saymask.runtime.bench.process import holdings
from saymask.runtime.bench.stream import FRAME_BYTES, StreamRecorder, StreamWindow
from saymask.runtime.live import LivePolicy, run_live
from saymask.runtime.live.prompt_board import PromptBoard
from saymask.runtime.masks import Masks
from saymask.runtime.segmenter import Segmenter
from saymask.runtime.sources import open_sources
from saymask.runtime.sources.frame import Frame

STAGES = ("image", "prompt", "mask")


def _recorder(seconds: float, warm_up_s: float = 0.0, **changed) -> StreamRecorder:
    window = StreamWindow(warm_up_s=warm_up_s, seconds=seconds, rate_hz=100.0)
    wanted: dict = {"engine_stages": STAGES, "meters": (), "step": lambda: None}
    return StreamRecorder(window, **(wanted | changed))


def _write(recorder: StreamRecorder, index: int, age_s: float = 0.0) -> None:
    frame = Frame(
        image_hwc=np.zeros((4, 6, 3), np.uint8),
        name="camera",
        index=index,
        captured_ns=time.monotonic_ns() - round(age_s * 1e9),
        time_s=0.0,
    )
    masks = Masks(
        boolean=np.zeros((1, 4, 6), bool),
        boxes_xyxy=np.zeros((1, 4), np.float32),
        scores=np.zeros(1, np.float32),
        labels=("mug",),
        answer="",
        said=(),
        timings_ms=(("views", 1.0), ("image", 5.0), ("mask", 2.0)),
    )
    recorder.write(frame, masks)


def test_ages_engine_times_and_numbers_are_noted():
    recorder = _recorder(10.0)
    for index in (0, 2, 3):
        _write(recorder, index, age_s=0.25)
    record = recorder.record()
    assert record.index.tolist() == [0, 2, 3]
    assert record.engine_ms.tolist() == [7, 7, 7]
    assert (np.abs(record.age_ms - 250) < 50).all()
    assert dict(record.stages_ms) == {"views": 3, "image": 15, "mask": 6}
    assert recorder.frame_hw == (4, 6)


def test_warm_up_does_not_count():
    recorder = _recorder(10.0, warm_up_s=0.1)
    _write(recorder, 0)
    assert len(recorder.record().index) == 0
    time.sleep(0.12)
    _write(recorder, 7)
    record = recorder.record()
    assert record.index.tolist() == [7]
    assert dict(record.stages_ms)["image"] == 5


def test_the_stream_is_stopped_when_the_window_is_over_and_later_frames_do_not_count():
    with _recorder(0.3) as recorder:
        _write(recorder, 0)
        start_s = time.monotonic()
        assert recorder.stop.wait(5)
        assert time.monotonic() - start_s >= 0.25
        _write(recorder, 9)
    assert recorder.record().index.tolist() == [0]


def test_nothing_is_stopped_before_the_first_masks():
    """A device may take its time to open."""
    with _recorder(0.1) as recorder:
        assert not recorder.stop.wait(0.4)


def test_more_frames_than_expected_are_kept():
    recorder = _recorder(1.0)
    for index in range(1000):
        _write(recorder, index)
    assert recorder.record().index.tolist() == list(range(1000))


@pytest.mark.skipif(holdings() is None, reason="needs /proc")
def test_recording_takes_no_memory_while_it_runs():
    window = StreamWindow(warm_up_s=0.0, seconds=3600.0, rate_hz=60.0)
    recorder = StreamRecorder(window, engine_stages=STAGES, meters=(), step=lambda: None)
    _write(recorder, 0)
    before = holdings()
    for index in range(1, 20_000):
        _write(recorder, index)
    after = holdings()
    assert before
    assert after
    assert FRAME_BYTES == 32
    assert after.rss_bytes - before.rss_bytes < 0.5 * 20_000 * FRAME_BYTES


class Broken:
    name = "broken"

    def joules(self) -> float:
        raise OSError("gone")


def test_a_meter_that_fails_ends_the_stream_and_is_reported():
    recorder = _recorder(10.0, meters=(Broken(),))
    recorder.__enter__()
    _write(recorder, 0)
    assert recorder.stop.wait(5)
    with pytest.raises(OSError, match="gone"):
        recorder.__exit__()


def test_a_real_stream_is_measured_and_its_threads_end(tiny_bundle, image_file):
    steps: list[int] = []
    recorder = _recorder(0.8, warm_up_s=0.2, step=lambda: steps.append(1))
    source = Paced(open_sources(str(image_file)), 40.0)
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        board = PromptBoard("the red square")
        run_live(segmenter, source, board, [recorder], LivePolicy(), recorder.stop)
    record = recorder.record()
    assert 5 < len(record.index) <= 34 < len(steps) + 30
    assert (np.diff(record.index) >= 1).all()
    assert ((record.age_ms > record.engine_ms) & (record.engine_ms > 0)).all()
    assert {*STAGES, "views", "back"} <= set(dict(record.stages_ms))
    assert len(record.sampled_s) >= 4
    assert record.holdings.shape == (len(record.sampled_s), 3)
    assert not [t.name for t in threading.enumerate() if t.name == "saymask-sampler"]
