"""Pictures out of GStreamer: a camera on a Jetson's CSI port, or any pipeline that you write."""

from __future__ import annotations

import importlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import MissingExtraError, SourceError
from .address import positive_number, size_hw, split_address
from .live_frames import LiveFrames, Shots

__all__ = ["CsiCamera", "Pipeline"]

_SINK = "saymask"
_APPSINK = f"appsink name={_SINK} sync=false max-buffers=4"
# The camera's memory becomes RGBA by the VIC engine; Orin's CPU and GPU share it, so that the only
# copy is the one that leaves the fourth byte out.
_CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! "
    "video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1 ! "
    "nvvidconv ! video/x-raw,format=RGBA"
)
_CSI_READERS = {"size": size_hw, "fps": positive_number}
_CSI_SIZE_HW = (720, 1280)
_CSI_RATE_HZ = 30
_CAPS = "video/x-raw,format={(string)RGB,(string)RGBA,(string)RGBx}"
_OLDEST_NS = 5_000_000_000
_READ_NS = 100_000_000
_SILENCE_S = 5.0
_ADDRESS_SECRETS = re.compile(r"""(://)[^\s"']*@""")
_WORD_SECRETS = re.compile(r"""\b(user-id|user-pw|user|password|passwd|token)=("[^"]*"|\S+)""")


class Pipeline:
    """`gst:` and a pipeline as gst-launch-1.0 takes it, without its sink: `gst:videotestsrc`."""

    is_moving = True
    is_live = True

    def __init__(self, reference: str) -> None:
        """Name the pipeline by its words; passwords in them stay hidden."""
        self.name = _without_secrets(reference)
        self._words = reference.removeprefix("gst:")

    def frames(self) -> LiveFrames:
        """Yield every frame until the pipeline ends; see `Source.frames`."""
        return LiveFrames(self.name, self._shots)

    def _shots(self, closed: threading.Event) -> Shots:
        return _shots(f"{self._words} ! videoconvert", self.name, closed)


class CsiCamera:
    """A camera on a Jetson's CSI port: `csi://0?size=1280x720&fps=30`, which are its defaults."""

    is_moving = True
    is_live = True

    def __init__(self, reference: str) -> None:
        """Name the camera; see the class.

        Raises:
            UsageError: An option is unknown or makes no sense.
            SourceError: The camera is no number.
        """
        self.name = reference
        sensor, options = split_address(reference, _CSI_READERS)
        if not sensor.isdecimal():
            raise SourceError(f"a CSI camera must be a number, as csi://0; got {reference}")
        height, width = options.get("size", _CSI_SIZE_HW)
        fps = round(options.get("fps", _CSI_RATE_HZ))
        self._words = _CSI.format(sensor=sensor, width=width, height=height, fps=max(1, fps))

    def frames(self) -> LiveFrames:
        """Yield every frame that the camera takes; see `Source.frames`."""
        return LiveFrames(self.name, self._shots)

    def _shots(self, closed: threading.Event) -> Shots:
        return _shots(self._words, self.name, closed)


def _shots(words: str, name: str, closed: threading.Event) -> Shots:
    """Yield what a pipeline makes; it ends with it, and raises when it breaks or falls silent."""
    gst = _gstreamer()
    with _playing(gst, words, name) as pipeline:
        sink, bus = pipeline.get_by_name(_SINK), pipeline.get_bus()
        heard_s = time.monotonic()
        while not closed.is_set():
            sample = sink.emit("try-pull-sample", _READ_NS)
            if sample is not None:
                heard_s = time.monotonic()
                yield _image(gst, sample), _captured_ns(pipeline, sample)
                continue
            _raise_error(gst, bus, name)
            if sink.get_property("eos"):
                return
            if time.monotonic() - heard_s > _SILENCE_S:
                raise SourceError(f"a live source must go on; {name} is silent")


def _gstreamer() -> Any:
    """Import GStreamer, which comes with the system and not from an index of Python packages."""
    try:
        gi = importlib.import_module("gi")
        gi.require_version("Gst", "1.0")
        gst = importlib.import_module("gi.repository.Gst")
    except (ImportError, ValueError) as error:
        raise MissingExtraError(
            f"csi:// and gst: need GStreamer's Python binding, which does not load ({error}); run: "
            "apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good, and "
            "make the environment with: python3 -m venv --system-site-packages"
        ) from error
    gst.init(None)
    return gst


@contextmanager
def _playing(gst: Any, words: str, name: str) -> Iterator[Any]:
    try:
        pipeline = gst.parse_launch(f"{words} ! {_CAPS} ! {_APPSINK}")
    except Exception as error:  # GLib.Error, a class that only the binding knows
        raise SourceError(
            f"a pipeline must be one that gst-launch-1.0 takes; {name} is not: "
            f"{_without_secrets(str(error))}"
        ) from None
    try:
        pipeline.set_state(gst.State.PLAYING)
        yield pipeline
    finally:
        pipeline.set_state(gst.State.NULL)


def _raise_error(gst: Any, bus: Any, name: str) -> None:
    if message := bus.pop_filtered(gst.MessageType.ERROR):
        error, _ = message.parse_error()
        raise SourceError(
            f"a live source must go on; {name} broke: {_without_secrets(error.message)}"
        )


def _image(gst: Any, sample: Any) -> np.ndarray:
    """Copy the picture out of the pipeline's memory, (H, W, 3) uint8 RGB."""
    caps, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
    height, width = caps.get_value("height"), caps.get_value("width")
    channels = 3 if caps.get_value("format") == "RGB" else 4
    is_mapped, view = buffer.map(gst.MapFlags.READ)
    if not is_mapped:
        raise SourceError("a picture must be readable; GStreamer cannot map it; add nvvidconv")
    try:
        flat = np.frombuffer(view.data, np.uint8)
        row_bytes = flat.size // height  # rows are padded
        rows_hw = flat[: height * row_bytes].reshape(height, row_bytes)
        pixels_hwc = rows_hw[:, : width * channels].reshape(height, width, channels)
        return pixels_hwc[..., :3].copy()
    finally:
        buffer.unmap(view)


def _captured_ns(pipeline: Any, sample: Any) -> int:
    """When the source stamped the buffer, moved from the pipeline's clock to ours."""
    now_ns = time.monotonic_ns()
    clock, stamp_ns = pipeline.get_clock(), sample.get_buffer().pts
    if clock is None:
        return now_ns
    age_ns = clock.get_time() - pipeline.get_base_time() - stamp_ns
    return now_ns - age_ns if 0 <= age_ns < _OLDEST_NS else now_ns


def _without_secrets(words: str) -> str:
    return _WORD_SECRETS.sub(r"\1=***", _ADDRESS_SECRETS.sub(r"\1***@", words))
