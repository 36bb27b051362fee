import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory

from saymask.runtime.errors import MissingExtraError, OutputError, SourceError
from saymask.runtime.masks import Masks
from saymask.runtime.sinks import mcap as mcap_recording
from saymask.runtime.sinks.mcap import (
    ANNOTATIONS_TOPIC,
    IMAGE_TOPIC,
    MASKS_TOPIC,
    McapRecording,
)
from saymask.runtime.sinks.records import records
from saymask.runtime.sources.frame import Frame
from saymask.runtime.sources.mcap import CameraTopic

PERIOD_NS = 40_000_000


@pytest.fixture
def masks(frame) -> Masks:
    boolean = np.stack([frame[..., 0] > 200, frame[..., 2] > 200])
    timings_ms = (("image", 1.23456), ("mask", 2.0))
    scores = np.float32([0.875, 0.5])
    return replace(Masks.of(boolean, scores, ("rote Größe", "blue")), timings_ms=timings_ms)


def _shot(frame: np.ndarray, index: int, late_ns: int = 0) -> Frame:
    """Take a frame of a 25 Hz camera that was captured `late_ns` after its time."""
    return Frame(
        image_hwc=np.roll(frame, index, axis=1),
        name="camera",
        index=index,
        captured_ns=10**9 + index * PERIOD_NS + late_ns,
        time_s=index * PERIOD_NS / 1e9,
    )


def _record(path: Path, frame, masks, count: int = 5) -> Path:
    with McapRecording(path) as sink:
        for index in range(count):
            sink.write(_shot(frame, index), masks)
    return path


def _messages(path: Path, topic: str) -> list:
    with path.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True, decoder_factories=[DecoderFactory()])
        if topic == MASKS_TOPIC:
            return [message for _, _, message in reader.iter_messages(topic)]
        return [decoded for *_, decoded in reader.iter_decoded_messages(topic)]


def test_the_topics_have_the_names_and_schemas_that_foxglove_knows(tmp_path, frame, masks):
    path = _record(tmp_path / "new" / "run.mcap", frame, masks)
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary
    found = {
        channel.topic: (summary.schemas[channel.schema_id], channel.message_encoding)
        for channel in summary.channels.values()
    }
    assert {t: (s.name, s.encoding, e) for t, (s, e) in found.items()} == {
        IMAGE_TOPIC: ("foxglove.CompressedImage", "protobuf", "protobuf"),
        ANNOTATIONS_TOPIC: ("foxglove.ImageAnnotations", "protobuf", "protobuf"),
        MASKS_TOPIC: ("saymask.Masks", "jsonschema", "json"),
    }
    published = ImageAnnotations.DESCRIPTOR.file
    schema = FileDescriptorSet.FromString(found[ANNOTATIONS_TOPIC][0].data)
    written = {file.name: file.SerializeToString() for file in schema.file}
    assert written[published.name] == published.serialized_pb
    assert {file.name for file in published.dependencies} < set(written)
    assert set(summary.statistics.channel_message_counts.values()) == {5}
    assert {index.compression for index in summary.chunk_indexes} == {"zstd"}
    assert [p.name for p in path.parent.iterdir()] == ["run.mcap"]


def test_every_message_says_what_came(tmp_path, frame, masks):
    path = _record(tmp_path / "run.mcap", frame, masks)
    for index, image in enumerate(_messages(path, IMAGE_TOPIC)):
        seen = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(seen.astype(int) - np.roll(frame, index, axis=1)).mean() < 3
    for annotations in _messages(path, ANNOTATIONS_TOPIC):
        assert [text.text for text in annotations.texts] == ["rote Größe 0.88", "blue 0.50"]
        assert len(annotations.points) == 2
    for index, message in enumerate(_messages(path, MASKS_TOPIC)):
        assert json.loads(message.data)["masks"] == list(records(_shot(frame, index), masks))
        assert message.sequence == index


def test_log_times_are_capture_times_and_stamps_the_sources(tmp_path, frame, masks, monkeypatch):
    wall_ns = iter((1_700_000_000 * 10**9, 5))  # the time of day may jump; it is asked once
    monkeypatch.setattr(mcap_recording.time, "time_ns", lambda: next(wall_ns))
    late_ns = (0, 30_000_000, 10_000_000)
    with McapRecording(tmp_path / "run.mcap") as sink:
        offset_ns = 1_700_000_000 * 10**9 - mcap_recording.time.monotonic_ns()
        for index, late in enumerate(late_ns):
            sink.write(_shot(frame, index, late), masks)
    logged_ns = [m.log_time for m in _messages(tmp_path / "run.mcap", MASKS_TOPIC)]
    expected_ns = [10**9 + index * PERIOD_NS + late for index, late in enumerate(late_ns)]
    assert abs(logged_ns[0] - offset_ns - expected_ns[0]) < 10**9
    assert np.diff(logged_ns).tolist() == np.diff(expected_ns).tolist()
    for topic in (IMAGE_TOPIC, ANNOTATIONS_TOPIC):
        stamps = [m.timestamp.ToNanoseconds() for m in _messages(tmp_path / "run.mcap", topic)]
        assert stamps == [logged_ns[0] + index * PERIOD_NS for index in range(3)]


def test_a_recording_read_back_has_its_frames_and_times(tmp_path, frame, masks):
    path = _record(tmp_path / "run.mcap", frame, masks, count=7)
    frames = list(CameraTopic(str(path)).frames())
    assert [f.index for f in frames] == list(range(7))
    assert [f.time_s for f in frames] == [index * PERIOD_NS / 1e9 for index in range(7)]
    for index, seen in enumerate(frames):
        assert np.abs(seen.image_hwc.astype(int) - np.roll(frame, index, axis=1)).mean() < 3


def test_a_still_without_masks_is_recorded(tmp_path, frame):
    none = Masks.of(np.zeros((0, 90, 120), bool), np.zeros(0, np.float32), ())
    still = Frame(image_hwc=frame, name="a.png", index=0, captured_ns=5, time_s=None)
    with McapRecording(tmp_path / "run.mcap") as sink:
        sink.write(still, none)
    (only,) = _messages(tmp_path / "run.mcap", MASKS_TOPIC)
    assert json.loads(only.data) == {"masks": []}
    assert len(list(CameraTopic(str(tmp_path / "run.mcap")).frames())) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_recording_is_whole(tmp_path, frame, masks, error):
    def write_and_fail():
        with McapRecording(tmp_path / "run.mcap") as sink:
            for index in range(3):
                sink.write(_shot(frame, index), masks)
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert len(list(CameraTopic(str(tmp_path / "run.mcap")).frames())) == 3


def test_a_recording_without_frames_is_no_file(tmp_path):
    with McapRecording(tmp_path / "run.mcap"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_killed_recording_can_be_read(tmp_path):
    script = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from saymask.runtime.sources.frame import Frame
from saymask.runtime.masks import Masks
from saymask.runtime.sinks.mcap import McapRecording
picture = np.full((90, 120, 3), 90, np.uint8)
masks = Masks.of(picture[None, ..., 0] > 0, np.float32([1]), ("all",))
sink = McapRecording(Path("run.mcap"))
for index in range(6):
    now_ns = time.monotonic_ns()
    frame = Frame(image_hwc=picture, name="a", index=index, captured_ns=now_ns, time_s=None)
    sink.write(frame, masks)
    time.sleep(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == -9
    (partial,) = tmp_path.iterdir()
    assert partial.name == ".run.mcap.partial"
    partial.rename(tmp_path / "left.mcap")
    frames = []
    with pytest.raises(SourceError, match=rf"left\.mcap#{IMAGE_TOPIC} gave [1-6] frames"):
        frames.extend(CameraTopic(str(tmp_path / "left.mcap")).frames())
    assert 2 <= len(frames) <= 6


def test_a_full_disk_is_an_error_and_the_frames_so_far_stay(tmp_path, frame, masks, monkeypatch):
    monkeypatch.setattr(mcap_recording, "_FLUSH_NS", -1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    noisy = np.random.default_rng(0).integers(0, 256, frame.shape, np.uint8)
    written = 0

    def fill():
        nonlocal written
        with McapRecording(tmp_path / "run.mcap") as sink:
            for index in range(100):
                sink.write(_shot(noisy, index), masks)
                written += 1

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"run\.mcap must be written.*run\.mcap\.partial"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (partial,) = tmp_path.iterdir()
    partial.rename(tmp_path / "left.mcap")
    frames = []
    with pytest.raises(SourceError, match=f"gave {written} frames"):
        frames.extend(CameraTopic(str(tmp_path / "left.mcap")).frames())
    assert len(frames) == written > 2


def test_nothing_is_appended_after_a_failure(tmp_path, frame, masks, monkeypatch):
    sink = McapRecording(tmp_path / "run.mcap")
    sink.write(_shot(frame, 0), masks)
    monkeypatch.setattr(mcap_recording, "_FLUSH_NS", -1)
    sink._stream.close()
    for index in (1, 2):
        with pytest.raises(OutputError, match="closed file"):
            sink.write(_shot(frame, index), masks)
    sink.__exit__()
    assert [p.name for p in tmp_path.iterdir()] == [".run.mcap.partial"]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path, frame, masks):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OutputError, match=r"check the folder's rights and the free space$"),
        McapRecording(tmp_path / "file" / "run.mcap") as sink,
    ):
        sink.write(_shot(frame, 0), masks)


@pytest.mark.parametrize("module", ["mcap.writer", "mcap_protobuf.schema"])
def test_a_missing_library_is_named_with_its_extra(tmp_path, frame, masks, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(MissingExtraError, match=r"saymask\[mcap\]"),
        McapRecording(tmp_path / "run.mcap") as sink,
    ):
        sink.write(_shot(frame, 0), masks)
    assert not list(tmp_path.iterdir())
