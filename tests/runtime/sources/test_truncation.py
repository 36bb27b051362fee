import numpy as np
import pytest

from saymask.runtime.sources.truncation import is_jpeg_cut, is_matroska_cut


@pytest.fixture(params=["baseline", "progressive", "restarts"])
def jpeg(request, frame) -> bytes:
    import cv2

    flags = {
        "baseline": [],
        "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
    }
    noise = np.random.default_rng(0).integers(0, 256, frame.shape, np.uint8)
    return cv2.imencode(".jpg", noise, flags[request.param])[1].tobytes()


def test_a_whole_jpeg_is_not_cut(jpeg):
    assert not is_jpeg_cut(jpeg)


def test_what_follows_a_jpeg_does_not_matter(jpeg):
    assert not is_jpeg_cut(jpeg + b"\xff\xda appended film")


def test_a_thumbnails_end_is_not_the_end(jpeg):
    thumbnail = b"\xff\xe1\x00\x06\xff\xd9\xff\xd8"
    assert is_jpeg_cut(jpeg[:2] + thumbnail + jpeg[2:-2])


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_jpeg_without_its_end_is_cut(jpeg, share):
    assert is_jpeg_cut(jpeg[: int(share * len(jpeg))])


def test_what_is_no_jpeg_is_not_judged():
    assert not is_jpeg_cut(b"\x89PNG")


def test_matroska_is_measured_against_its_header(tmp_path, write_video):
    path = write_video(tmp_path / "video.mkv")
    assert not is_matroska_cut(path)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert is_matroska_cut(path)
    path.write_bytes(data[: data.index(b"\x18\x53\x80\x67") + 4])
    assert is_matroska_cut(path)


def test_a_matroska_stream_of_unknown_length_is_not_judged(tmp_path, write_video):
    path = write_video(tmp_path / "video.mkv", live="1")
    path.write_bytes(path.read_bytes()[:-100])
    assert not is_matroska_cut(path)


def test_what_is_no_matroska_is_not_judged(video_file, tmp_path):
    assert not is_matroska_cut(video_file)
    (tmp_path / "short.mkv").write_bytes(b"\x1a\x45\xdf\xa3")
    assert not is_matroska_cut(tmp_path / "short.mkv")
