import base64
import json

import cv2
import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from saymask.runtime.errors import FrameError, InputError, SourceError
from saymask.runtime.sources.ros_messages import CAMERA_TYPES, MessageType, picture_reader

STAMP_NS = 1_700_000_000_123_456_789
SECONDS, NANOS = divmod(STAMP_NS, 10**9)

FOXGLOVE_MSGS = {
    "foxglove_msgs/msg/CompressedImage": """
        builtin_interfaces/Time timestamp
        string frame_id
        uint8[] data
        string format
    """,
    "foxglove_msgs/msg/RawImage": """
        builtin_interfaces/Time timestamp
        string frame_id
        uint32 width
        uint32 height
        string encoding
        uint32 step
        uint8[] data
    """,
}


def _of_ros(name: str, values: dict, little_endian: bool = True) -> bytes:
    """Write a message by the public library, from its definition."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for known, text in FOXGLOVE_MSGS.items():
        store.register(get_types_from_msg(text, known))
    stamp = store.types["builtin_interfaces/msg/Time"](SECONDS, NANOS)
    if name.startswith("sensor"):
        values["header"] = store.types["std_msgs/msg/Header"](stamp, "lens")
    else:
        values |= {"timestamp": stamp, "frame_id": "lens"}
    values["data"] = np.frombuffer(values["data"], np.uint8)
    return bytes(
        store.serialize_cdr(store.types[name](**values), name, little_endian=little_endian)
    )


def _of_foxglove(serialization: str, name: str, values: dict) -> bytes:
    if serialization == "protobuf":
        stamp = {"seconds": SECONDS, "nanos": NANOS}
        message_class = RawImage if name.endswith("RawImage") else CompressedImage
        return message_class(timestamp=stamp, frame_id="lens", **values).SerializeToString()
    values["data"] = base64.b64encode(values["data"]).decode()
    return json.dumps({"timestamp": {"sec": SECONDS, "nsec": NANOS}, **values}).encode()


def _values(name: str, frame: np.ndarray) -> dict:
    if name.endswith("CompressedImage"):
        return {"format": "png", "data": cv2.imencode(".png", frame[..., ::-1])[1].tobytes()}
    values = {"height": 90, "width": 120, "encoding": "rgb8", "step": 360, "data": frame.tobytes()}
    return values | ({"is_bigendian": 0} if name.startswith("sensor") else {})


TYPES = [(way, name) for way, names in CAMERA_TYPES.items() for name in names]


def _message(serialization: str, name: str, frame: np.ndarray) -> bytes:
    if serialization == "cdr":
        return _of_ros(name, _values(name, frame))
    return _of_foxglove(serialization, name, _values(name, frame))


@pytest.mark.parametrize(("serialization", "name"), TYPES)
def test_every_type_is_read(frame, serialization, name):
    read = picture_reader(MessageType(serialization=serialization, name=name))
    stamp_ns, image_hwc = read(_message(serialization, name, frame))
    assert stamp_ns == STAMP_NS
    np.testing.assert_array_equal(image_hwc, frame)


@pytest.mark.parametrize("name", CAMERA_TYPES["cdr"])
def test_machines_of_the_other_byte_order_are_read(frame, name):
    message = _of_ros(name, _values(name, frame), little_endian=False)
    stamp_ns, image_hwc = picture_reader(MessageType(serialization="cdr", name=name))(message)
    assert stamp_ns == STAMP_NS
    np.testing.assert_array_equal(image_hwc, frame)


@pytest.mark.parametrize("length", range(1, 9))
def test_texts_of_any_length_keep_the_alignment(frame, length):
    name = "sensor_msgs/msg/CompressedImage"
    values = _values(name, frame) | {"format": "x" * length}
    kind = MessageType(serialization="cdr", name=name)
    np.testing.assert_array_equal(picture_reader(kind)(_of_ros(name, values))[1], frame)


@pytest.mark.parametrize(("serialization", "name"), TYPES)
def test_a_cut_message_is_refused_wherever_it_ends(frame, serialization, name):
    read = picture_reader(MessageType(serialization=serialization, name=name))
    message = _message(serialization, name, frame)
    for kept in (*range(0, 80, 3), len(message) // 2, len(message) - 9):
        # Between two fields, a cut Protocol Buffer is a whole one that lacks the encoding.
        with pytest.raises(InputError, match=r"must be"):
            read(message[:kept])


def test_foreign_bytes_are_refused():
    read = picture_reader(MessageType(serialization="cdr", name="sensor_msgs/msg/Image"))
    with pytest.raises(FrameError, match="it begins with 0003"):
        read(b"\x00\x03\x00\x00" + bytes(80))
    read = picture_reader(MessageType(serialization="json", name="foxglove.RawImage"))
    for text in (b"[]", b'{"data": 3}', b'{"data": "", "height": "4"}', b"\xff", b"{}"):
        with pytest.raises(FrameError, match=r"must be a whole foxglove\.RawImage"):
            read(text)


def test_an_unknown_encoding_is_no_damage(frame):
    name = "sensor_msgs/msg/Image"
    message = _of_ros(name, _values(name, frame) | {"encoding": "16UC1"})
    with pytest.raises(SourceError, match="got '16UC1'"):
        picture_reader(MessageType(serialization="cdr", name=name))(message)


@pytest.mark.parametrize(
    ("serialization", "name"),
    [("cdr", "sensor_msgs/msg/PointCloud2"), ("ros1", "sensor_msgs/Image"), ("", "")],
)
def test_other_types_are_no_cameras(serialization, name):
    assert not MessageType(serialization=serialization, name=name).is_camera
