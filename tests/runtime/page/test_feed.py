from __future__ import annotations

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from saymask.runtime.masks import Masks
from saymask.runtime.overlay import draw
from saymask.runtime.page.feed import Feed
from saymask.runtime.sources import Frame


def _frame(image_hwc: np.ndarray, index: int = 0, age_ms: float = 0, name: str = "cam") -> Frame:
    captured_ns = time.monotonic_ns() - round(age_ms * 1e6)
    return Frame(image_hwc=image_hwc, name=name, index=index, captured_ns=captured_ns, time_s=0)


def _masks(frame: np.ndarray, **timings_ms: float) -> Masks:
    boolean = np.stack([frame[..., 0] > 200, frame[..., 2] > 200, frame[..., 0] > 300])
    masks = Masks.of(boolean, np.float32([0.5, 0.75, 0]), ("red", "blue", "red"))
    return replace(masks, timings_ms=tuple(timings_ms.items()))


def _decoded(jpeg: bytes) -> np.ndarray:
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return bgr[..., ::-1].astype(int)


def test_nothing_is_shown_before_the_first_frame() -> None:
    feed = Feed()
    assert (feed.count, feed.picture(), feed.scores()) == (0, None, {})
    assert feed.figures() == {
        "frames": 0,
        "dropped": 0,
        "silent_ms": None,
        "fps": None,
        "age_ms": None,
        "stages_ms": {},
    }


def test_the_newest_frame_is_drawn_without_the_legend(frame) -> None:
    feed = Feed()
    feed.put(_frame(np.zeros_like(frame)), _masks(frame))
    feed.put(_frame(frame), _masks(frame))
    picture = feed.picture()
    assert picture
    assert picture.number == feed.count == 2
    seen = _decoded(picture.jpeg)
    expected = draw(frame, _masks(frame))
    assert seen.shape == (5 * 90, 5 * 120, 3)
    assert np.abs(seen - expected[: 5 * 90]).mean() < 4


def test_a_frame_is_drawn_once_and_pictures_rest(frame) -> None:
    feed = Feed()
    feed.put(_frame(frame), _masks(frame))
    first = feed.picture()
    assert first
    assert feed.picture() is first
    feed.put(_frame(frame, 1), _masks(frame))
    assert feed.picture() is first or first.rest_s == 0
    time.sleep(first.rest_s)
    second = feed.picture()
    assert second
    assert second.number == 2
    assert 0 <= second.rest_s <= 1 / 30


@pytest.mark.parametrize(("height", "width"), [(1999, 2883), (3001, 400)])
def test_a_large_frame_is_sent_smaller(height, width) -> None:
    image_hwc = np.full((height, width, 3), 100, np.uint8)
    boolean = np.zeros((1, height, width), bool)
    boolean[0, height // 2 :] = True
    feed = Feed()
    feed.put(_frame(image_hwc), Masks.of(boolean, np.float32([1]), ("half",)))
    picture = feed.picture()
    assert picture
    seen = _decoded(picture.jpeg)
    assert seen.shape == (height // 2, width // 2, 3)
    assert np.abs(seen[: height // 4 - 20] - 100).max() < 4
    assert (seen[height // 4 + 20 : -20, 20:-20, 2] > 140).all()


def test_figures_tell_rate_age_stages_and_gaps(frame) -> None:
    feed = Feed()
    for index, age_ms in ((0, 10), (1, 20), (4, 30), (5, 40)):
        feed.put(_frame(frame, index, age_ms), _masks(frame, image=index, mask=2.25))
        time.sleep(0.02)
    figures = feed.figures()
    assert (figures["frames"], figures["dropped"]) == (4, 2)
    assert figures["stages_ms"] == {"image": 2.5, "mask": 2.2}
    assert 25 <= figures["age_ms"]["p50"] <= 100
    assert 37 <= figures["age_ms"]["p90"] <= 120
    assert 1 < figures["fps"] < 51
    assert 20 <= figures["silent_ms"] < 1000


def test_a_new_source_or_a_jump_back_drops_nothing(frame) -> None:
    feed = Feed()
    feed.put(_frame(frame, 3, name="a"), _masks(frame))
    feed.put(_frame(frame, 9, name="b"), _masks(frame))
    feed.put(_frame(frame, 0, name="b"), _masks(frame))
    assert feed.figures()["dropped"] == 0


def test_a_label_has_its_best_score(frame) -> None:
    feed = Feed()
    feed.put(_frame(frame), _masks(frame))
    assert feed.scores() == {"red": 0.5, "blue": 0.75}


def test_old_frames_leave_the_window(frame, monkeypatch) -> None:
    feed = Feed()
    feed.put(_frame(frame), _masks(frame, image=1))
    later_ns = time.monotonic_ns() + 6_000_000_000
    monkeypatch.setattr(time, "monotonic_ns", lambda: later_ns)
    figures = feed.figures()
    assert figures["silent_ms"] >= 6000
    assert (figures["fps"], figures["age_ms"], figures["stages_ms"]) == (None, None, {})
    assert figures["frames"] == 1
