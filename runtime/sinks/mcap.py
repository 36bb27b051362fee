"""A recording that Foxglove opens: each frame, its masks' outlines upon it, and the masks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError, require
from ..masks import Masks
from ..sources.frame import Frame
from . import Sink
from .foxglove import compressed_image, image_annotations
from .records import RECORD_SCHEMA, records

__all__ = ["ANNOTATIONS_TOPIC", "IMAGE_TOPIC", "MASKS_TOPIC", "McapRecording"]

IMAGE_TOPIC = "/camera/image"
"""Topic of the frames, each a foxglove.CompressedImage in JPEG."""
ANNOTATIONS_TOPIC = "/camera/annotations"
"""Topic of the outlines, each a foxglove.ImageAnnotations."""
MASKS_TOPIC = "/camera/masks"
"""Topic of the masks themselves, each frame's records (see `records`) in JSON as {"masks": []}."""

_MASKS_SCHEMA = {
    "title": "saymask.Masks",
    "type": "object",
    "properties": {"masks": {"type": "array", "items": RECORD_SCHEMA}},
}
_CHUNK_BYTES = 4 << 20
_FLUSH_NS = 10**9


class McapRecording(Sink):
    """One MCAP file with three topics, in chunks compressed by zstd.

    It appears under its name when the block ends, also when the source failed or the user
    interrupted: then it holds the frames so far. Until then, and for good when the process is
    killed or the disk is full, it is the hidden sibling .NAME.partial, which lacks its index and
    at most the last second: `mcap recover` makes a whole file of it, and under a name that ends
    in .mcap it can be read as it is. A later recording of the same name replaces both.

    Messages are logged at the time the frame was captured. The offset between the clock that
    never jumps and the time of day is taken once, so a time of day that is corrected meanwhile
    doesn't tear the recording. The time stamps within the messages advance as the source's own
    times do, so that a video plays at its own speed however long it took.
    """

    def __init__(self, path: Path) -> None:
        """Write to `path`; nothing is made before the first frame."""
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._stream: Any = None
        self._writer: Any = None
        self._channels: tuple[int, ...] = ()
        self._clock_offset_ns = time.time_ns() - time.monotonic_ns()
        self._source_start_ns = 0
        self._flushed_ns = 0

    def write(self, frame: Frame, masks: Masks) -> None:
        """Append a frame and its masks; see `Sink.write`.

        Args:
            frame: The frame.
            masks: Its masks.

        Raises:
            OutputError: The file cannot be written; the frames before stay readable.
            MissingExtraError: The libraries of the extra "mcap" are not installed.
        """
        captured_ns = frame.captured_ns + self._clock_offset_ns
        since_start_ns = round((frame.time_s or 0.0) * 1e9)
        if not self._writer:
            self._source_start_ns = captured_ns - since_start_ns
        stamp_ns = self._source_start_ns + since_start_ns
        messages = (
            compressed_image(frame.image_hwc, stamp_ns).SerializeToString(),
            image_annotations(masks, stamp_ns).SerializeToString(),
            json.dumps({"masks": list(records(frame, masks))}).encode(),
        )
        with self._reported():
            if not self._writer:
                self._writer = self._open()
            for channel, data in zip(self._channels, messages, strict=True):
                self._writer.add_message(channel, captured_ns, data, stamp_ns, frame.index)
            self._flush()

    def __exit__(self, *_: object) -> None:
        """Complete the file and give it its name; see `Sink.write`."""
        if not self._writer or self._stream.closed:
            return
        with self._reported():
            self._writer.finish()
            self._stream.close()
            self._partial.replace(self._path)

    def _open(self) -> Any:
        """Begin the file with its schemas and channels."""
        mcap = require("mcap.writer", extra="mcap")
        register_schema = require("mcap_protobuf.schema", extra="mcap").register_schema
        published = "foxglove_schemas_protobuf"
        image = require(f"{published}.CompressedImage_pb2", extra="mcap").CompressedImage
        annotations = require(f"{published}.ImageAnnotations_pb2", extra="mcap").ImageAnnotations
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._partial.open("wb")
        writer = mcap.Writer(self._stream, chunk_size=_CHUNK_BYTES)
        writer.start(library="saymask")
        masks = _MASKS_SCHEMA["title"], "jsonschema", json.dumps(_MASKS_SCHEMA).encode()
        self._channels = tuple(
            writer.register_channel(topic, encoding, schema)
            for topic, encoding, schema in (
                (IMAGE_TOPIC, "protobuf", register_schema(writer, image)),
                (ANNOTATIONS_TOPIC, "protobuf", register_schema(writer, annotations)),
                (MASKS_TOPIC, "json", writer.register_schema(*masks)),
            )
        )
        return writer

    def _flush(self) -> None:
        """End the chunk each second: a kill costs no more, and days need no large index."""
        now_ns = time.monotonic_ns()
        if now_ns - self._flushed_ns > _FLUSH_NS:
            self._writer.flush()
            self._flushed_ns = now_ns

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn the system's errors into an OutputError, after which nothing more is appended."""
        try:
            yield
        except (OSError, ValueError) as error:
            kept = ""
            if self._stream:
                kept = f"; what came before is in {self._partial}, which `mcap recover` completes"
                with suppress(OSError):
                    self._stream.close()
            raise OutputError(
                f"{self._path} must be written, which failed: {error}; check the folder's rights "
                f"and the free space{kept}"
            ) from error
