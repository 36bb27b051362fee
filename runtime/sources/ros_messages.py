"""A camera's messages, of ROS 2 or of Foxglove, as pictures with their time stamps.

Source: ROS 2's sensor_msgs, the OMG's common data representation (DDS-RTPS 2.5, section 10) in
which ROS 2 writes them, and the schemas of the Foxglove SDK. The fields of these few messages are
listed here, because bags before ROS 2 Iron in SQLite don't hold their definitions.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import FrameError, InputError, require
from .raw_images import RawImage, rgb_from_compressed, rgb_from_raw

__all__ = ["CAMERA_TYPES", "MessageType", "picture_reader"]

_STAMP = (("sec", "i"), ("nanosec", "I"), ("frame_id", "text"))
_CDR_FIELDS = {
    "sensor_msgs/msg/Image": (
        *_STAMP,
        ("height", "I"),
        ("width", "I"),
        ("encoding", "text"),
        ("is_bigendian", "B"),
        ("step", "I"),
        ("data", "bytes"),
    ),
    "sensor_msgs/msg/CompressedImage": (*_STAMP, ("format", "text"), ("data", "bytes")),
    "foxglove_msgs/msg/RawImage": (
        *_STAMP,
        ("width", "I"),
        ("height", "I"),
        ("encoding", "text"),
        ("step", "I"),
        ("data", "bytes"),
    ),
    "foxglove_msgs/msg/CompressedImage": (*_STAMP, ("data", "bytes"), ("format", "text")),
}
"""Names and kinds of a message's fields, in their order: a letter of `struct`, or a sequence."""

_CDR_ORDERS = {b"\x00\x00": ">", b"\x00\x01": "<"}
_FOXGLOVE_TYPES = ("foxglove.CompressedImage", "foxglove.RawImage")

CAMERA_TYPES = {
    "cdr": tuple(_CDR_FIELDS),
    "json": _FOXGLOVE_TYPES,
    "protobuf": _FOXGLOVE_TYPES,
}
"""Names of the types that hold pictures, by how their messages are serialized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageType:
    """What the messages of a topic are."""

    serialization: str
    """How they are written, for example "cdr"."""
    name: str
    """Name of their schema, for example "sensor_msgs/msg/Image"."""

    @property
    def is_camera(self) -> bool:
        """True when they hold pictures that can be read."""
        return self.name in CAMERA_TYPES.get(self.serialization, ())


def picture_reader(kind: MessageType) -> Callable[[bytes], tuple[int, np.ndarray]]:
    """Make what reads a camera's messages.

    Args:
        kind: What the messages are, one of `CAMERA_TYPES`.

    Returns:
        Takes a serialized message; returns when it was taken, in nanoseconds since 1970 (0 when
        it doesn't say), and the picture, (H, W, 3) uint8 RGB. It raises a FrameError for a message
        that is damaged and a SourceError for an unknown encoding.

    Raises:
        MissingExtraError: The library that reads it is not installed.
    """
    readers = {"cdr": _cdr_reader, "json": _json_reader, "protobuf": _protobuf_reader}
    read = readers[kind.serialization](kind.name)

    def read_picture(data: bytes) -> tuple[int, np.ndarray]:
        try:
            stamp_ns, fields = read(data)
            return stamp_ns, _picture(fields)
        except InputError:
            raise
        except (ValueError, AttributeError, TypeError, struct.error) as error:
            raise FrameError(
                f"a message must be a whole {kind.name}; got {len(data)} bytes that are none: "
                f"{error}; record it again"
            ) from error

    return read_picture


def _picture(fields: Any) -> np.ndarray:
    """Read the fields that all types have in common; (H, W, 3) uint8 RGB."""
    if hasattr(fields, "format"):
        return rgb_from_compressed(fields.data, fields.format)
    return rgb_from_raw(
        RawImage(
            encoding=fields.encoding,
            size_hw=(fields.height, fields.width),
            step_bytes=fields.step,
            is_bigendian=bool(getattr(fields, "is_bigendian", False)),
            data=fields.data,
        )
    )


def _cdr_reader(name: str) -> Callable[[bytes], tuple[int, Any]]:
    def read(data: bytes) -> tuple[int, Any]:
        fields = SimpleNamespace(**dict(_cdr_fields(data, _CDR_FIELDS[name])))
        return fields.sec * 10**9 + fields.nanosec, fields

    return read


def _cdr_fields(data: bytes, names: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, Any]]:
    """Read fields one after the other, numbers aligned to their size."""
    if data[:2] not in _CDR_ORDERS:
        raise ValueError(f"it begins with {data[:2].hex()} and not with 0000 or 0001")
    order = _CDR_ORDERS[data[:2]]
    position = 4  # two bytes of options follow; they leave the alignment to 4 bytes as it is
    for name, kind in names:
        form = f"{order}{kind if len(kind) == 1 else 'I'}"
        position += -position % struct.calcsize(form)
        (value,) = struct.unpack_from(form, data, position)
        position += struct.calcsize(form)
        if len(kind) > 1:
            content = memoryview(data)[position : position + value]
            if len(content) < value:
                raise ValueError(f"{name} has {len(content)} of {value} bytes")
            position += value
            value = content if kind == "bytes" else str(content, "utf-8").rstrip("\0")
        yield name, value


def _protobuf_reader(name: str) -> Callable[[bytes], tuple[int, Any]]:
    short = name.removeprefix("foxglove.")
    schema = require(f"foxglove_schemas_protobuf.{short}_pb2", extra="mcap")
    damaged = require("google.protobuf.message", extra="mcap").DecodeError

    def read(data: bytes) -> tuple[int, Any]:
        try:
            fields = getattr(schema, short).FromString(data)
        except damaged as error:
            raise ValueError(str(error)) from error
        return fields.timestamp.seconds * 10**9 + fields.timestamp.nanos, fields

    return read


def _json_reader(_: str) -> Callable[[bytes], tuple[int, Any]]:
    def read(data: bytes) -> tuple[int, Any]:
        fields = json.loads(data, object_hook=lambda members: SimpleNamespace(**members))
        fields.data = base64.b64decode(fields.data, validate=True)
        stamp = getattr(fields, "timestamp", SimpleNamespace(sec=0, nsec=0))
        return stamp.sec * 10**9 + stamp.nsec, fields

    return read
