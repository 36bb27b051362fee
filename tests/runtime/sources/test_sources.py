import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from saymask.runtime import sources
from saymask.runtime.errors import MissingExtraError, SourceError, UnknownNameError
from saymask.runtime.sources import open_sources
from saymask.runtime.sources.camera import Camera
from saymask.runtime.sources.gstreamer import CsiCamera, Pipeline
from saymask.runtime.sources.mcap import CameraTopic
from saymask.runtime.sources.network import HttpVideo, RtspStream


def _names(reference) -> list[str]:
    return [Path(source.name).name for source in open_sources(str(reference))]


def test_a_folder_is_its_images_in_natural_order(tmp_path, write_image):
    for name in ("b10.png", "b9.png", "B1.jpg", "a.png", ".hidden.png"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert _names(tmp_path) == ["a.png", "B1.jpg", "b9.png", "b10.png"]


def test_a_glob_takes_images_and_videos(tmp_path, write_image, video_file):
    (tmp_path / "deep").mkdir()
    write_image(tmp_path / "deep" / "x.png")
    (tmp_path / "walk.txt").write_text("neither")
    assert _names(tmp_path / "w*") == ["walk.mp4"]
    assert _names(tmp_path / "**" / "*.png") == ["x.png"]


def test_a_file_with_wildcards_in_its_name_is_a_file(tmp_path, write_image):
    write_image(tmp_path / "a[1].png")
    assert _names(tmp_path / "a[1].png") == ["a[1].png"]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere.png", "nowhere.png does not; check the path"),
        ("nowhere", "nowhere does not; check the path"),
        ("notes.txt", "must be one of .bmp, .jpeg"),
        ("*.png", "*.png has none"),
        (".", "must hold images; . has none"),
    ],
)
def test_what_is_not_there_is_said_at_once(tmp_path, monkeypatch, reference, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(SourceError) as caught:
        open_sources(reference)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "kind", "is_live"),
    [
        ("0", Camera, True),
        ("/dev/video7", Camera, True),
        ("v4l2:///dev/video0?fps=15", Camera, True),
        ("csi://1", CsiCamera, True),
        ("gst:videotestsrc pattern=18 ! video/x-raw,width=[1,9]", Pipeline, True),
        ("RTSP://camera/1?x=*", RtspStream, True),
        ("rtsps://camera/1", RtspStream, True),
        ("https://camera/a*b.mp4?x=1", HttpVideo, None),
    ],
)
def test_an_address_is_one_moving_source_that_is_not_opened_yet(reference, kind, is_live):
    (source,) = open_sources(reference)
    assert type(source) is kind
    assert source.is_moving
    assert is_live is None or source.is_live == is_live


def test_a_recording_is_a_file_or_a_bag_with_a_topic(tmp_path):
    (tmp_path / "drive.mcap").touch()
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "metadata.yaml").touch()
    for name in ("drive.mcap", "drive.mcap#/camera/image.raw", "bag", "bag#/camera/image"):
        (source,) = open_sources(str(tmp_path / name))
        assert source == CameraTopic(str(tmp_path / name))
    with pytest.raises(SourceError, match=r"nowhere.mcap does not; check the path"):
        open_sources("nowhere.mcap")


def test_a_folder_that_is_called_like_a_camera_is_named_with_its_path(tmp_path, write_image):
    (tmp_path / "0").mkdir()
    write_image(tmp_path / "0" / "a.png")
    assert _names(tmp_path / "0") == ["a.png"]


def test_an_unknown_scheme_lists_the_known_ones_and_hides_the_password():
    with pytest.raises(SourceError) as caught:
        open_sources("rtmp://me:secret@camera/1")
    assert "csi://" in str(caught.value)
    assert "test://" in str(caught.value)
    assert str(caught.value).endswith("got rtmp://***@camera/1")


def test_other_floors_offer_schemes():
    (source,) = open_sources("test://tabletop?loop=2")
    assert source.is_live
    with pytest.raises(UnknownNameError, match="must be one of tabletop; got 'moon'"):
        open_sources("test://moon")


def test_an_offered_scheme_whose_library_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "saymask.train.world.stream", None)
    with pytest.raises(MissingExtraError, match=r"test:// needs .* pip install 'saymask\[train\]'"):
        open_sources("test://tabletop")


@pytest.fixture(autouse=True)
def _offers_the_drawn_world(monkeypatch):
    """Offer test:// as an installation does, whatever was installed before."""
    entry = EntryPoint("test", "saymask.train.world.stream", sources.GROUP)
    monkeypatch.setattr(sources, "entry_points", lambda group: (entry,))
