import os
import sys
import time
from pathlib import Path

import pytest

from saymask.runtime.errors import MissingExtraError, SourceError, UsageError
from saymask.runtime.sources.camera import Camera


def _fault(reference) -> str:
    with pytest.raises(SourceError) as caught:
        next(Camera(str(reference)).frames())
    return str(caught.value)


@pytest.mark.parametrize(
    "reference", ["987", "/dev/video987", "v4l2://987", "v4l2:///dev/video987?fps=30"]
)
def test_a_camera_that_is_not_plugged_in_is_said_to_be_missing(reference):
    assert Camera(reference).name == reference
    assert "/dev/video987 is not there (No such file or directory)" in _fault(reference)


def test_a_file_is_no_camera(image_file):
    assert f"{image_file} is a file; name /dev/video0" in _fault(f"v4l2://{image_file}")


def test_a_device_that_is_no_camera_is_refused():
    said = _fault("v4l2:///dev/null?size=1280x720&fps=30&format=mjpeg")
    assert "/dev/null does not: Inappropriate ioctl for device; close what else" in said


def test_a_camera_of_somebody_else_tells_of_the_group(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "/dev/null is not; add yourself to the group video" in _fault("v4l2:///dev/null")


def test_options_that_make_no_sense_are_refused_before_it_is_opened():
    with pytest.raises(UsageError, match="v4l2:// must be one of format, fps, size; got .rate."):
        Camera("v4l2://0?rate=30")


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"saymask\[video\]"):
        next(Camera("0").frames())


@pytest.mark.skipif(not Path("/dev/video0").exists(), reason="needs a camera at /dev/video0")
def test_a_real_camera_gives_frames_that_are_new():
    frames = Camera("0").frames()
    first, second = next(frames), next(frames)
    frames.close()
    assert second.index == 1
    assert first.captured_ns < second.captured_ns <= time.monotonic_ns()
