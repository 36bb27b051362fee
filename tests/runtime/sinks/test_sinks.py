import io
import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from saymask.kernels.rle import decode
from saymask.runtime.errors import OutputError, SourceError
from saymask.runtime.masks import Masks
from saymask.runtime.overlay import draw
from saymask.runtime.sinks import (
    JsonLines,
    MaskPictures,
    OverlayPicture,
    OverlayVideo,
    distinct_stems,
)
from saymask.runtime.sources import Clip, Frame, Still


@pytest.fixture
def still(frame) -> Frame:
    return Frame(image_hwc=frame, name="table.png", index=0, captured_ns=0, time_s=None)


@pytest.fixture
def masks(frame) -> Masks:
    boolean = np.stack([frame[..., 0] > 200, frame[..., 2] > 200])
    timings_ms = (("image", 1.23456), ("mask", 2.0))
    scores = np.float32([0.875, 0.5])
    return replace(Masks.of(boolean, scores, ("rote Größe", "blue")), timings_ms=timings_ms)


def _moving(frame, index: int, time_s: float) -> Frame:
    image_hwc = np.roll(frame, index, axis=1)
    return Frame(image_hwc=image_hwc, name="walk.mp4", index=index, captured_ns=0, time_s=time_s)


def _read(path) -> np.ndarray:
    (only,) = Still(str(path)).frames()
    return only.image_hwc


def test_an_overlay_is_written_as_drawn(tmp_path, still, masks):
    path = tmp_path / "new" / "deep" / "table.v2.overlay.png"
    with OverlayPicture(path.parent / "table.v2") as sink:
        sink.write(still, masks)
    np.testing.assert_array_equal(_read(path), draw(still.image_hwc, masks))
    assert [p.name for p in path.parent.iterdir()] == ["table.v2.overlay.png"]


def test_masks_are_written_one_by_one(tmp_path, still, frame, masks):
    with MaskPictures(tmp_path / "table") as sink:
        sink.write(still, masks)
        sink.write(_moving(frame, 7, 0.28), masks)
    names = ["table.mask-1.png", "table.mask-2.png"]
    names += ["table.000007.mask-1.png", "table.000007.mask-2.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    for name, mask in zip(names, [*masks.boolean, *masks.boolean], strict=True):
        np.testing.assert_array_equal(_read(tmp_path / name)[..., 0], mask * 255)


def test_json_lines_say_everything(frame, masks):
    stream = io.StringIO()
    with JsonLines(stream) as sink:
        sink.write(_moving(frame, 7, 0.28), masks)
    first, second = map(json.loads, stream.getvalue().splitlines())
    np.testing.assert_array_equal(decode(first.pop("rle")), masks.boolean[0])
    assert first == {
        "source": "walk.mp4",
        "frame": 7,
        "captured_ns": 0,
        "time_s": 0.28,
        "phrase": "rote Größe",
        "size": [90, 120],
        "box_xyxy": [10, 20, 50, 60],
        "score": 0.875,
        "area_px": 1600,
        "said": None,
        "times_ms": {"image": 1.235, "mask": 2.0},
    }
    assert second["phrase"] == "blue"


def test_json_knows_stills_and_the_first_moment(still, frame, masks):
    stream = io.StringIO()
    JsonLines(stream).write(still, masks)
    JsonLines(stream).write(_moving(frame, 0, 0.0), masks)
    times = [json.loads(line)["time_s"] for line in stream.getvalue().splitlines()]
    assert times == [None, None, 0.0, 0.0]


def test_a_video_keeps_its_times_and_its_pictures(tmp_path, frame, masks):
    times_s = [0, 0.04, 0.08, 0.5, 0.5, 0.6]
    path = tmp_path / "new" / "walk.overlay.mp4"
    with OverlayVideo(path.parent / "walk") as sink:
        for index, time_s in enumerate(times_s):
            sink.write(_moving(frame, index, time_s), masks)
        assert not path.exists()
    seen = list(Clip(str(path)).frames())
    np.testing.assert_allclose([f.time_s for f in seen], times_s, atol=1e-4)
    for index, shown in enumerate(seen):
        expected = draw(np.roll(frame, index, axis=1), masks)
        assert np.abs(shown.image_hwc.astype(int) - expected).mean() < 12
    assert [p.name for p in path.parent.iterdir()] == ["walk.overlay.mp4"]


def test_odd_sides_are_made_even(tmp_path, masks):
    frame = np.full((601, 603, 3), 90, np.uint8)
    empty = Masks.of(np.zeros((1, 601, 603), bool), np.float32([0]), ("a",))
    with OverlayVideo(tmp_path / "odd") as sink:
        sink.write(_moving(frame, 0, 0.0), empty)
    height, width = next(Clip(str(tmp_path / "odd.overlay.mp4")).frames()).image_hwc.shape[:2]
    assert (height % 2, width) == (0, 604)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_video_is_whole(tmp_path, frame, masks, error):
    path = tmp_path / "walk.overlay.mp4"

    def write_and_fail():
        with OverlayVideo(tmp_path / "walk") as sink:
            for index in range(3):
                sink.write(_moving(frame, index, index / 25), masks)
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert len(list(Clip(str(path)).frames())) == 3


def test_a_video_without_frames_is_no_file(tmp_path):
    with OverlayVideo(tmp_path / "none"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [OverlayPicture, OverlayVideo, MaskPictures])
def test_a_folder_that_cannot_be_made_is_reported(tmp_path, frame, masks, kind):
    (tmp_path / "file").write_text("in the way")
    sink = kind(tmp_path / "file" / "x")
    with pytest.raises(OutputError, match="must be written, which failed"), sink:
        sink.write(_moving(frame, 0, 0.0), masks)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_stems_are_as_short_as_they_may_be():
    assert distinct_stems(["a/cat.jpg", "a/dog.png"]) == ["cat", "dog"]
    assert distinct_stems(["a/cat.jpg", "a/cat.png"]) == ["cat.jpg", "cat.png"]
    assert distinct_stems(["a/cat.jpg", "b/cat.jpg"]) == ["a-cat.jpg", "b-cat.jpg"]
    assert distinct_stems(["x/a/c.jpg", "y/a/c.jpg", "d.jpg"]) == [
        "x-a-c.jpg",
        "y-a-c.jpg",
        "d.jpg",
    ]
    assert distinct_stems([]) == []


def test_stems_of_addresses_are_plain_names():
    names = ["rtsp://***@cam.local:554/door?***", "gst:videotestsrc ! videoconvert"]
    assert distinct_stems(names) == ["door-", "gst-videotestsrc - videoconvert"]


def test_pictures_of_another_size_are_shrunk_into_the_video(frame, masks, tmp_path):
    with OverlayVideo(tmp_path / "walk") as sink:
        sink.write(_moving(frame, 0, 0.0), masks)
        for index in (1, 2):
            large = np.repeat(np.repeat(frame, 1 + index, axis=0), 5, axis=1)
            boolean = np.repeat(np.repeat(masks.boolean, 1 + index, axis=1), 5, axis=2)
            other = Masks.of(boolean, masks.scores, masks.labels)
            sink.write(_moving(large, index, index / 10), other)
    first, *others = (each.image_hwc for each in Clip(str(tmp_path / "walk.overlay.mp4")).frames())
    assert len(others) == 2
    for other in others:
        assert other.shape == first.shape
        assert other[: other.shape[0] // 4].std() > 20  # the frame, in the top left corner
        assert other[-8:].max() < 40  # nothing below it


def test_a_video_that_was_cut_off_can_be_read(frame, masks, tmp_path):
    generator = np.random.default_rng(0)
    with OverlayVideo(tmp_path / "walk") as sink:
        for index in range(240):
            noise = generator.integers(0, 256, frame.shape, dtype=np.uint8)
            sink.write(_moving(noise, index, index / 30), masks)
        (partial,) = tmp_path.iterdir()
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(partial.read_bytes())
    seen = 0
    with suppress(SourceError):
        for each in Clip(str(cut)).frames():
            seen = each.index + 1
    assert seen >= 100
