import sqlite3
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from mcap.writer import CompressionType, Writer
from mcap_protobuf.schema import register_schema
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as BagWriter
from rosbags.typesys import Stores, get_typestore

from saymask.runtime.errors import MissingExtraError, SourceError
from saymask.runtime.sources.mcap import CameraTopic, split_topic

STORE = get_typestore(Stores.ROS2_HUMBLE)
IMAGE, COMPRESSED, TEXT = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
    "std_msgs/msg/String",
)
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000
PLUGINS = (StoragePlugin.MCAP, StoragePlugin.SQLITE3)


def _header(stamp_ns: int):
    stamp = STORE.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    return STORE.types["std_msgs/msg/Header"](stamp, "lens")


def _message(kind: str, frame: np.ndarray, stamp_ns: int) -> bytes:
    if kind == TEXT:
        return bytes(STORE.serialize_cdr(STORE.types[TEXT]("hello"), TEXT))
    header = _header(stamp_ns)
    if kind == COMPRESSED:
        data = cv2.imencode(".jpg", frame[..., ::-1])[1].ravel()
        message = STORE.types[COMPRESSED](header, "rgb8; jpeg compressed bgr8", data)
    else:
        height, width = frame.shape[:2]
        message = STORE.types[IMAGE](
            header, height, width, "rgb8", 0, 3 * width, np.ascontiguousarray(frame).ravel()
        )
    return bytes(STORE.serialize_cdr(message, kind))


def _bag(folder: Path, frame, plugin, topics: dict, count: int = 6, mode=CompressionMode.NONE):
    """Record topics (name -> type) as `ros2 bag record` does; headers are 7 ms behind the log."""
    writer = BagWriter(folder, version=8, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        for topic, kind in topics.items():
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for index in range(count):
                logged_ns = START_NS + index * PERIOD_NS
                moved = np.roll(frame, index, axis=1)
                data = _message(kind, moved, logged_ns - 7_000_000 - 1000 * index)
                writer.write(connection, logged_ns, data)
    return folder


def _mcap(path: Path, frame, count: int = 12, **options) -> Path:
    """Write foxglove.CompressedImage messages without stamps by the public writer."""
    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=1000, **options)
        writer.start()
        schema = register_schema(writer, CompressedImage)
        channel = writer.register_channel("/lens", "protobuf", schema)
        for index in range(count):
            data = cv2.imencode(".png", np.roll(frame, index, axis=1)[..., ::-1])[1].tobytes()
            message = CompressedImage(data=data, format="png").SerializeToString()
            logged_ns = START_NS + index * PERIOD_NS
            writer.add_message(channel, logged_ns, message, logged_ns, index)
        writer.finish()
    return path


def _frames(reference) -> list:
    return list(CameraTopic(str(reference)).frames())


def _fault(reference) -> tuple[list, str]:
    """Read all frames, then the fault."""
    frames = []
    with pytest.raises(SourceError) as caught:
        frames.extend(CameraTopic(str(reference)).frames())
    return frames, str(caught.value)


def _are_first(frames: list, frame, error: float = 0.0) -> bool:
    """True when the frames are the first ones of a recording, in order."""
    return [f.index for f in frames] == list(range(len(frames))) and all(
        np.abs(seen.image_hwc.astype(int) - np.roll(frame, seen.index, axis=1)).mean() <= error
        for seen in frames
    )


@pytest.mark.parametrize("kind", [IMAGE, COMPRESSED])
@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_bag_is_its_only_camera_at_the_times_of_the_headers(tmp_path, frame, plugin, kind):
    bag = _bag(tmp_path / "bag", frame, plugin, {"/talk": TEXT, "/lens": kind})
    source = CameraTopic(str(bag))
    assert (source.name, source.is_moving, source.is_live) == (str(bag), True, False)
    before_ns = time.monotonic_ns()
    frames = list(source.frames())
    assert len(frames) == 6
    assert _are_first(frames, frame, 0 if kind == IMAGE else 3)
    assert [f.time_s for f in frames] == [i * (PERIOD_NS - 1000) / 1e9 for i in range(6)]
    captured_ns = [f.captured_ns for f in frames]
    assert before_ns <= captured_ns[0] <= captured_ns[-1] <= time.monotonic_ns()
    (file,) = (path for path in bag.iterdir() if path.name != "metadata.yaml")
    assert len(_frames(file)) == 6


@pytest.mark.parametrize("plugin", PLUGINS)
def test_one_of_several_cameras_is_named_after_a_hash(tmp_path, frame, plugin):
    topics = {"/left/image": IMAGE, "/right/image": COMPRESSED, "/talk": TEXT}
    bag = _bag(tmp_path / "bag", frame, plugin, topics)
    for topic in ("/left/image", "/right/image"):
        (first, *_) = frames = _frames(f"{bag}#{topic}")
        assert len(frames) == 6
        assert first.name == f"{bag}#{topic}"
    for wish in ("", "#/talk", "#/nothing"):
        frames, said = _fault(f"{bag}{wish}")
        assert not frames
        assert "must be named of /left/image, /right/image; got" in said
        assert f"write {bag}#/left/image" in said


def test_a_bag_in_several_files_is_one_recording(tmp_path, frame):
    bag = _bag(tmp_path / "bag", frame, StoragePlugin.MCAP, {"/lens": IMAGE})
    (bag / "bag.mcap").rename(bag / "bag_0.mcap")
    (bag / "bag_1.mcap").write_bytes((bag / "bag_0.mcap").read_bytes())
    listing = (bag / "metadata.yaml").read_text()
    # The first versions of rosbag2 listed files with the folder's name before them.
    listing = listing.replace("  - bag.mcap\n", "  - bag/bag_0.mcap\n  - bag/bag_1.mcap\n")
    (bag / "metadata.yaml").write_text(listing)
    assert [f.index for f in _frames(bag)] == list(range(12))


@pytest.mark.parametrize("compression", list(CompressionType))
def test_foxgloves_images_are_read_at_the_times_of_the_log(tmp_path, frame, compression):
    frames = _frames(_mcap(tmp_path / "run.MCAP", frame, compression=compression))
    assert len(frames) == 12
    assert _are_first(frames, frame)
    assert [f.time_s for f in frames] == [index * PERIOD_NS / 1e9 for index in range(12)]


@pytest.mark.parametrize("options", [{"use_chunking": False}, {"repeat_channels": False}])
def test_files_without_an_index_are_read_in_a_row(tmp_path, frame, options):
    frames = _frames(_mcap(tmp_path / "run.mcap", frame, **options))
    assert len(frames) == 12
    assert _are_first(frames, frame)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("options", [{}, {"use_chunking": False}])
def test_a_cut_file_gives_its_frames_then_one_error(tmp_path, frame, share, options):
    path = _mcap(tmp_path / "run.mcap", frame, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    frames, said = _fault(path)
    assert f"{path}#/lens gave {len(frames)} frames: " in said
    assert said.endswith("copy it again or run `mcap recover`")
    assert _are_first(frames, frame)
    assert 0 < len(frames) <= 12


def test_a_cut_ends_in_an_error_wherever_it_is(tmp_path, frame):
    data = _mcap(tmp_path / "run.mcap", frame, count=3).read_bytes()
    for kept in range(1, len(data) - 1, 97):
        (tmp_path / "cut.mcap").write_bytes(data[:kept])
        frames, said = _fault(tmp_path / "cut.mcap")
        assert _are_first(frames, frame)
        assert " must " in said


def test_a_damaged_chunk_ends_the_recording(tmp_path, frame):
    path = _mcap(tmp_path / "run.mcap", frame)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    frames, said = _fault(path)
    assert _are_first(frames, frame)
    assert 0 < len(frames) < 12
    assert f"gave {len(frames)} frames" in said


def test_a_damaged_database_gives_its_frames_then_one_error(tmp_path, frame):
    bag = _bag(tmp_path / "bag", frame, StoragePlugin.SQLITE3, {"/lens": IMAGE}, count=20)
    data = bytearray((bag / "bag.db3").read_bytes())
    data[len(data) * 2 // 3 :] = bytes(len(data) - len(data) * 2 // 3)
    (bag / "bag.db3").write_bytes(data)
    frames, said = _fault(bag)
    assert f"gave {len(frames)} frames" in said
    assert 0 < len(frames) < 20
    assert _are_first(frames, frame)


def test_damaged_frames_are_left_out_and_reported(tmp_path, frame):
    with BagWriter(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/lens", IMAGE, typestore=STORE)
        for index in range(4):
            data = _message(IMAGE, frame, START_NS + index * PERIOD_NS)
            writer.write(connection, START_NS, data[:-100] if index == 1 else data)
    frames, said = _fault(tmp_path / "bag")
    assert [f.time_s for f in frames] == [0, 2 * PERIOD_NS / 1e9, 3 * PERIOD_NS / 1e9]
    assert "gave 3 frames: a message must be a whole sensor_msgs/msg/Image; got" in said
    assert "data has 32300 of 32400 bytes" in said


def test_an_unknown_encoding_is_said_at_once(tmp_path, frame):
    depth = STORE.types[IMAGE](_header(0), 2, 2, "32FC1", 0, 8, np.zeros(16, np.uint8))
    with BagWriter(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/depth", IMAGE, typestore=STORE)
        writer.write(connection, START_NS, STORE.serialize_cdr(depth, IMAGE))
    frames, said = _fault(tmp_path / "bag")
    assert not frames
    assert said.startswith(f"{tmp_path / 'bag'}#/depth: an image's encoding must be one of rgb8")
    assert "got '32FC1'" in said


def test_a_recording_without_a_camera_says_what_it_has(tmp_path, frame):
    bag = _bag(tmp_path / "bag", frame, StoragePlugin.MCAP, {"/talk": TEXT})
    said = _fault(bag)[1]
    assert "must have a topic of foxglove.CompressedImage" in said
    assert "has /talk (cdr std_msgs/msg/String); record" in said


def test_a_camera_that_sent_nothing_is_said(tmp_path, frame):
    bag = _bag(tmp_path / "bag", frame, StoragePlugin.MCAP, {"/lens": IMAGE}, count=0)
    assert "#/lens gave 0 frames: no messages" in _fault(bag)[1]


@pytest.mark.parametrize("mode", [CompressionMode.MESSAGE, CompressionMode.FILE])
def test_bags_that_must_be_unpacked_are_refused(tmp_path, frame, mode):
    bag = _bag(tmp_path / "bag", frame, StoragePlugin.SQLITE3, {"/lens": IMAGE}, mode=mode)
    assert "with `ros2 bag convert`" in _fault(bag)[1]


@pytest.mark.parametrize("text", ["", "rosbag2", "[", "a: 1", "rosbag2_bagfile_information: 3"])
def test_a_folder_with_a_broken_index_is_refused(tmp_path, text):
    (tmp_path / "metadata.yaml").write_text(text)
    assert "must have a whole metadata.yaml" in _fault(tmp_path)[1]


def test_a_listed_file_that_is_missing_is_named(tmp_path, frame):
    bag = _bag(tmp_path / "bag", frame, StoragePlugin.MCAP, {"/lens": IMAGE})
    (bag / "bag.mcap").unlink()
    assert f"{bag / 'bag.mcap'} is none" in _fault(bag)[1]


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_what_is_called_a_recording_and_is_none(tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    path.touch()
    assert f"{path} is empty; copy it again" in _fault(path)[1]
    path.write_text("I am no recording " * 99)
    assert f"must be an MCAP file or a bag of ROS 2; {path} is none" in _fault(path)[1]
    if suffix == ".db3":
        path.unlink()
        sqlite3.connect(path).execute("CREATE TABLE cats (name)").connection.close()
        assert "no such table: topics" in _fault(path)[1]


def test_nothing_is_opened_before_the_first_frame(tmp_path):
    CameraTopic(str(tmp_path / "nowhere.mcap")).frames()


def test_a_hash_parts_the_topic_unless_it_is_in_the_files_name(tmp_path):
    odd = tmp_path / "take#2.mcap"
    odd.touch()
    assert split_topic(str(odd)) == (odd, "")
    assert split_topic(f"{odd}#/lens") == (odd, "/lens")
    assert split_topic("bag.mcap#/a/b") == (Path("bag.mcap"), "/a/b")
    assert split_topic("bag.mcap") == (Path("bag.mcap"), "")


def test_missing_libraries_are_named_with_their_extra(tmp_path, frame, monkeypatch):
    path = _mcap(tmp_path / "run.mcap", frame, count=1)
    (tmp_path / "bag").mkdir()
    for module, reference in (("mcap.reader", path), ("yaml", tmp_path / "bag")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=r"saymask\[mcap\]"):
            _frames(reference)
