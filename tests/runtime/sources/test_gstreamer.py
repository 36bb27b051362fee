import importlib.util
import sys
import threading
import time

import pytest

from saymask.runtime.errors import MissingExtraError, SourceError, UsageError
from saymask.runtime.sources.gstreamer import CsiCamera, Pipeline

pytestmark = pytest.mark.filterwarnings("ignore:DynamicImporter:ImportWarning")
"""Old bindings import as Python 3.3 did."""
DEBIAN = "/usr/lib/python3/dist-packages"
LINE = "apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base"


@pytest.fixture
def gst(monkeypatch):
    """GStreamer's binding, which a distribution brings for its own Python."""
    monkeypatch.setattr(sys, "path", [*sys.path, DEBIAN])
    if importlib.util.find_spec("gi") is None:
        pytest.skip(f"needs GStreamer: {LINE}")
    try:
        import gi

        gi.require_version("Gst", "1.0")
    except (ImportError, ValueError) as error:
        pytest.skip(f"{error}: {LINE}")


def test_a_pipeline_gives_its_pictures_and_ends(gst):
    words = "gst:videotestsrc pattern=red num-buffers=4 ! video/x-raw,width=101,height=50"
    frames = list(Pipeline(words).frames())
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    for frame in frames:  # 101 pixels of 3 bytes are padded to 304
        assert frame.image_hwc.shape == (50, 101, 3)
        assert (frame.image_hwc == (255, 0, 0)).all()


@pytest.mark.parametrize("layout", ["RGBA", "RGBx", "NV12", "GRAY8"])
def test_every_layout_becomes_rgb(gst, layout):
    words = f"gst:videotestsrc pattern=white num-buffers=1 ! video/x-raw,format={layout}"
    (frame,) = Pipeline(words).frames()
    assert frame.image_hwc.shape[2] == 3
    assert frame.image_hwc.min() >= 235


def test_a_live_pipeline_stamps_its_frames_and_stops_at_once(gst):
    pipeline = Pipeline("gst:videotestsrc is-live=true ! video/x-raw,framerate=25/1")
    frames = pipeline.frames()
    stamps_ns = [next(frames).captured_ns for _ in range(6)]
    assert 0 <= time.monotonic_ns() - stamps_ns[-1] < 1e9
    assert (stamps_ns[-1] - stamps_ns[0]) / 5e6 == pytest.approx(40, abs=4)
    frames.close()
    stalled = Pipeline("gst:appsrc is-live=true").frames()
    threading.Timer(0.2, stalled.close).start()
    start_s = time.monotonic()
    assert next(stalled, None) is None
    assert time.monotonic() - start_s < 2


def test_the_size_may_change_within_a_stream(gst):
    words = (
        "gst:concat name=c videotestsrc num-buffers=2 ! video/x-raw,width=64,height=48 ! c. "
        "videotestsrc num-buffers=2 ! video/x-raw,width=32,height=24 ! c. c."
    )
    shapes = [frame.image_hwc.shape for frame in Pipeline(words).frames()]
    assert shapes == [(48, 64, 3)] * 2 + [(24, 32, 3)] * 2


def test_a_pipeline_that_cannot_be_built_or_breaks_is_said(gst):
    with pytest.raises(SourceError, match='one that gst-launch-1.0 takes; .*"nosuch"'):
        next(Pipeline("gst:nosuch").frames())
    with pytest.raises(SourceError, match="broke: Resource not found"):
        next(Pipeline("gst:filesrc location=nowhere.ts ! decodebin").frames())


def test_passwords_are_hidden_in_names_and_errors(gst):
    words = 'gst:nosuch location="rtsp://me:secret@camera/1" user-id=me user-pw="my secret"'
    pipeline = Pipeline(words)
    hidden = 'gst:nosuch location="rtsp://***@camera/1" user-id=*** user-pw=***'
    assert pipeline.name == hidden
    with pytest.raises(SourceError) as caught:
        next(pipeline.frames())
    assert "secret" not in str(caught.value)


def test_a_csi_camera_needs_a_jetson(gst):
    with pytest.raises(SourceError, match='csi://0.* is not: .*"nvarguscamerasrc"'):
        next(CsiCamera("csi://0?size=1920x1080&fps=60").frames())


@pytest.mark.parametrize("reference", ["csi://front", "csi://", "csi://0?rate=3", "csi://0?fps=0"])
def test_a_csi_camera_that_makes_no_sense_is_refused(reference):
    with pytest.raises((SourceError, UsageError), match="must be"):
        CsiCamera(reference)


def test_a_missing_binding_tells_where_it_comes_from(monkeypatch):
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(MissingExtraError, match="apt install python3-gi .*--system-site-packages"):
        next(Pipeline("gst:videotestsrc").frames())
