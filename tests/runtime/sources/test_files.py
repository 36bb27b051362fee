from pathlib import Path

import numpy as np
import pytest

from saymask.runtime.errors import MissingExtraError, SourceError
from saymask.runtime.sources import OPENERS, Clip, Still, open_sources

CODEC_ERROR = 12
"""Levels that a lossy codec may be off by on flat areas, on average."""


def _frames(path) -> list:
    (source,) = open_sources(str(path))
    return list(source.frames())


def _fault(path, count: int = 0) -> str:
    """Read `count` frames, then the fault."""
    (source,) = open_sources(str(path))
    frames = source.frames()
    for _ in range(count):
        next(frames)
    with pytest.raises(SourceError) as caught:
        next(frames)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_an_image_is_its_pixels(image_file, frame):
    (only,) = _frames(image_file)
    np.testing.assert_array_equal(only.image_hwc, frame)
    assert (only.name, only.index, only.time_s) == (str(image_file), 0, None)


@pytest.mark.parametrize("suffix", [key for key in OPENERS if OPENERS[key] is Still])
def test_every_format_of_images_is_read(tmp_path, write_image, frame, suffix):
    path = write_image(tmp_path / f"image{suffix}")
    (only,) = _frames(path)
    assert np.abs(only.image_hwc.astype(int) - frame).mean() < CODEC_ERROR


def test_gray_and_transparent_images_become_rgb(tmp_path):
    import cv2

    for name, shape in (("gray.png", (4, 6)), ("alpha.png", (4, 6, 4))):
        cv2.imwrite(str(tmp_path / name), np.full(shape, 90, np.uint8))
        assert (_frames(tmp_path / name)[0].image_hwc == np.full((4, 6, 3), 90)).all()


def test_a_video_is_its_frames_in_time(video_file, frame):
    (source,) = open_sources(str(video_file))
    frames = list(source.frames())
    assert source.is_moving
    assert [f.index for f in frames] == list(range(12))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(12) / 25)
    for index, moved in enumerate(frames):
        error = np.abs(moved.image_hwc.astype(int) - np.roll(frame, index, axis=1))
        assert error.mean() < CODEC_ERROR


@pytest.mark.parametrize("suffix", [key for key in OPENERS if OPENERS[key] is Clip])
def test_every_format_of_videos_is_read(tmp_path, write_video, suffix):
    codec = "libvpx" if suffix == ".webm" else "h264"
    frames = _frames(write_video(tmp_path / f"video{suffix}", codec=codec))
    assert [f.index for f in frames] == list(range(12))
    assert frames[0].time_s == 0


def test_a_turned_phone_video_is_shown_upright(video_file, frame):
    import av

    data = video_file.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # version, times, id, length, layer, volume; then the matrix
    identity = data[at : at + 36]
    assert identity == _matrix(1, 0, 0, 1)
    video_file.write_bytes(data[:at] + _matrix(0, 1, -1, 0) + data[at + 36 :])
    if not hasattr(av.VideoFrame, "rotation"):
        pytest.skip("this PyAV does not tell the rotation")
    first = _frames(video_file)[0].image_hwc
    assert first.shape == (120, 90, 3)
    assert np.abs(first.astype(int) - np.rot90(frame, -1)).mean() < CODEC_ERROR


def _matrix(a: int, b: int, c: int, d: int) -> bytes:
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return b"".join(value.to_bytes(4, "big", signed=True) for value in values)


@pytest.mark.parametrize("name", ["empty.png", "empty.mp4"])
def test_an_empty_file_is_called_empty(tmp_path, name):
    (tmp_path / name).touch()
    assert "is empty; copy it again" in _fault(tmp_path / name)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.webp"])
def test_a_truncated_image_is_refused(tmp_path, write_image, name, capfd):
    assert "cut short" in _fault(_cut(write_image(tmp_path / name)))


def test_text_that_is_called_an_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("I am no image")
    assert "(13 bytes) is damaged, cut short or no image" in _fault(tmp_path / "text.png")


def test_an_unreadable_image_is_reported(tmp_path):
    unreadable = Path("/proc/self/mem")
    if not unreadable.exists():
        pytest.skip("needs /proc")
    (tmp_path / "memory.png").symlink_to(unreadable)
    assert "must be readable" in _fault(tmp_path / "memory.png")


def test_text_that_is_called_a_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("I am no video")
    assert "gave 0 frames" in _fault(tmp_path / "text.mp4")


def test_sound_alone_is_no_video(tmp_path):
    import av

    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.sample_rate, silence.pts = 8000, 0
        container.mux(stream.encode(silence))
    assert "no video track" in _fault(tmp_path / "sound.mkv")


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_a_truncated_video_yields_its_whole_frames_first(tmp_path, write_video, frame, name):
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = _cut(write_video(tmp_path / name, 60, **options), share=0.8)
    (source,) = open_sources(str(path))
    frames = []
    with pytest.raises(SourceError) as caught:
        frames.extend(source.frames())
    assert f"{path} gave {len(frames)} frames" in str(caught.value)
    assert 5 < len(frames) < 60
    last = np.roll(frame, len(frames) - 1, axis=1)
    assert np.abs(frames[-1].image_hwc.astype(int) - last).mean() < CODEC_ERROR


def test_a_video_without_its_index_is_refused(tmp_path, write_video):
    assert "gave 0 frames" in _fault(_cut(write_video(tmp_path / "cut.mp4")))


def test_a_missing_library_is_named_with_its_extra(monkeypatch, image_file, video_file):
    for path, module in ((image_file, "cv2"), (video_file, "av")):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(MissingExtraError, match=r"saymask\[video\]"):
            _frames(path)


def _cut(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path
