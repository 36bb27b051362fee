"""A camera's topic in an MCAP file or in a bag of ROS 2, as frames."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import FrameError, SaymaskError, SourceError, require
from .frame import Frame
from .ros_messages import CAMERA_TYPES, MessageType, picture_reader

__all__ = ["BAG_INDEX", "CameraTopic", "split_topic"]

BAG_INDEX = "metadata.yaml"
"""The file that makes a folder a bag of ROS 2."""


@dataclass(frozen=True, slots=True)
class CameraTopic:
    """A camera's topic at the times in its messages; damaged frames are left out.

    Times are those of the headers, or those of the log where the headers have none.
    """

    name: str
    """Path of a .mcap or .db3 file or of a rosbag2 folder, with "#" and the topic if need be."""
    is_moving = True
    is_live = False

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that can be decoded, then report damage; see `Source.frames`."""
        path, topic = split_topic(self.name)
        storages = _storages(path)
        topic, kind = _chosen(path, topic, _topics(path, storages))
        read_picture = picture_reader(kind)
        faults: list[str] = []
        count, start_ns = 0, None
        for logged_ns, data in _messages(storages, topic, faults):
            try:
                stamp_ns, image_hwc = read_picture(data)
            except FrameError as error:
                faults.append(str(error))
                continue
            except SourceError as error:
                raise SourceError(f"{path}#{topic}: {error}") from error
            taken_ns = stamp_ns or logged_ns
            start_ns = taken_ns if start_ns is None else start_ns
            yield Frame(
                image_hwc=image_hwc,
                name=self.name,
                index=count,
                captured_ns=time.monotonic_ns(),
                time_s=(taken_ns - start_ns) / 1e9,
            )
            count += 1
        if faults or not count:
            raise SourceError(
                f"a recording must be whole; {path}#{topic} gave {count} frames: "
                f"{faults[0] if faults else 'no messages'}; copy it again or run `mcap recover`"
            )


def split_topic(reference: str) -> tuple[Path, str]:
    """Take "bag.mcap#/camera/image" apart into the path and the topic, which may be empty."""
    if Path(reference).exists():
        return Path(reference), ""
    path, _, topic = reference.rpartition("#")
    return (Path(path), topic) if path else (Path(topic), "")


class _Storage(Protocol):
    """A file of messages."""

    def topics(self) -> Mapping[str, MessageType]:
        """Find what each topic holds, as far as the file can be read."""
        ...

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """Yield the log time in nanoseconds since 1970 and the data of each message."""
        ...


class _Mcap:
    """An MCAP file (mcap.dev/spec), read by its index, or in a row where a cut took that off."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def topics(self) -> Mapping[str, MessageType]:
        with self._path.open("rb") as stream:
            _, summary = _opened(stream)
            channels, schemas = (summary.channels, summary.schemas) if summary else _scanned(stream)
        return {
            channel.topic: MessageType(
                serialization=channel.message_encoding,
                name=schemas[channel.schema_id].name if channel.schema_id in schemas else "",
            )
            for channel in channels.values()
        }

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as stream:
            reader, summary = _opened(stream)
            for _, _, message in reader.iter_messages([topic], log_time_order=bool(summary)):
                yield message.log_time, message.data


def _opened(stream: IO[bytes]) -> tuple[Any, Any]:
    """Make the library's reader; with the summary, or None for a file to be read in a row."""
    library = require("mcap.reader", extra="mcap")
    reader = library.SeekingReader(stream, validate_crcs=True)
    with suppress(Exception):  # a file that was cut ends with anything
        summary = reader.get_summary()
        if summary and summary.chunk_indexes and summary.channels:
            return reader, summary
    stream.seek(0)
    return library.NonSeekingReader(stream, validate_crcs=True), None


def _scanned(stream: IO[bytes]) -> tuple[dict[int, Any], dict[int, Any]]:
    """Find the channels and schemas, by their ids, of a file without a summary."""
    kinds = require("mcap.records", extra="mcap")
    library = require("mcap.stream_reader", extra="mcap")
    channels, schemas = {}, {}
    with suppress(Exception):  # the cut, which whoever reads the messages meets again
        for record in library.StreamReader(stream).records:
            if isinstance(record, kinds.Channel):
                channels[record.id] = record
            elif isinstance(record, kinds.Schema):
                schemas[record.id] = record
    return channels, schemas


class _Sqlite:
    """An SQLite file of rosbag2, which has a table of topics and one of messages."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def topics(self) -> Mapping[str, MessageType]:
        query = "SELECT name, type, serialization_format FROM topics"
        return {
            topic: MessageType(serialization=serialization, name=name)
            for topic, name, serialization in self._rows(query)
        }

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        return self._rows(
            "SELECT timestamp, data FROM messages WHERE topic_id IN "
            "(SELECT id FROM topics WHERE name = ?) ORDER BY timestamp",
            topic,
        )

    def _rows(self, query: str, *values: str) -> Iterator[Any]:
        import sqlite3  # some builds of Python lack it, and nothing else here needs it

        address = f"{self._path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            yield from connection.execute(query, values)


_STORAGES = {".mcap": _Mcap, ".db3": _Sqlite}


def _storages(path: Path) -> list[_Storage]:
    """Make what reads a file, or those that a folder's index lists."""
    paths = _listed(path) if path.is_dir() else [path]
    for file in paths:
        if file.suffix.lower() not in _STORAGES or not file.is_file():
            raise SourceError(
                f"a recording must be files that end in {' or '.join(_STORAGES)}; {file} is "
                "none; copy it again, or convert it with `ros2 bag convert`"
            )
        if not file.stat().st_size:
            raise SourceError(f"a source must hold data; {file} is empty; copy it again")
    return [_STORAGES[file.suffix.lower()](file) for file in paths]


def _listed(folder: Path) -> list[Path]:
    """Read the index of a rosbag2 folder."""
    yaml = require("yaml", extra="mcap")
    try:
        index = yaml.safe_load((folder / BAG_INDEX).read_bytes())["rosbag2_bagfile_information"]
        # The first versions wrote the folder's name too.
        paths = [folder / Path(name).name for name in index["relative_file_paths"]]
        compression = str(index.get("compression_mode"))
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise SourceError(
            f"a bag of ROS 2 must have a whole {BAG_INDEX}; {folder} has none: {error}; run "
            "`ros2 bag reindex` or name a file in it"
        ) from error
    if compression.upper() == "MESSAGE":
        raise SourceError(
            f"a bag's messages must be stored plainly or in compressed chunks; {folder} compresses "
            "each; convert it with `ros2 bag convert`"
        )
    return paths


def _topics(path: Path, storages: list[_Storage]) -> dict[str, MessageType]:
    """Find what each topic of several files holds, as far as they can be read."""
    found: dict[str, MessageType] = {}
    try:
        for storage in storages:
            found.update(storage.topics())
    except SaymaskError:
        raise
    except Exception as error:  # the readers of damaged files raise anything
        raise SourceError(
            f"a recording must be an MCAP file or a bag of ROS 2; {path} is none: {error}; "
            "copy it again"
        ) from error
    return found


def _chosen(path: Path, topic: str, found: Mapping[str, MessageType]) -> tuple[str, MessageType]:
    """Take the topic that was asked for, or the only one of a camera."""
    cameras = [name for name, kind in found.items() if kind.is_camera]
    if topic in cameras:
        return topic, found[topic]
    if len(cameras) == 1 and not topic:
        return cameras[0], found[cameras[0]]
    if cameras:
        raise SourceError(
            f"one camera topic must be named of {', '.join(sorted(cameras))}; got {topic!r}; "
            f"write {path}#{min(cameras)}"
        )
    known = sorted({name for names in CAMERA_TYPES.values() for name in names})
    others = sorted(f"{name} ({kind.serialization} {kind.name})" for name, kind in found.items())
    raise SourceError(
        f"a recording must have a topic of {', '.join(known)}; {path} has "
        f"{', '.join(others) or 'no topics'}; record the camera's topic too, or "
        "copy the file again if it was cut"
    )


def _messages(
    storages: list[_Storage], topic: str, faults: list[str]
) -> Iterator[tuple[int, bytes]]:
    """Chain the messages of several files; what is wrong with a file ends it and is noted."""
    for storage in storages:
        try:
            yield from storage.messages(topic)
        except Exception as error:  # the readers of damaged files raise anything
            faults.append(str(error) or type(error).__name__)
