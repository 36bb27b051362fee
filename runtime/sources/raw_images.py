"""A camera's bytes, raw in one of ROS's encodings or compressed, as an RGB picture.

Source of the encodings: ROS's sensor_msgs/image_encodings.hpp and Foxglove's RawImage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import FrameError, SourceError, require
from .truncation import is_jpeg_cut

__all__ = ["ENCODINGS", "RawImage", "rgb_from_compressed", "rgb_from_raw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoding:
    """How pixels lie in memory."""

    channels: int
    """Samples of a pixel that lie side by side."""
    sample_bytes: int
    """Bytes of a sample, 1 or 2."""
    to_rgb: str
    """OpenCV's name of what makes 8-bit samples RGB; empty where they are RGB."""
    rows_of_two: int
    """Rows of memory for two rows of pixels; 3 where a plane of colors follows."""


def _layout(to_rgb: str, channels: int, bits: int = 8, rows_of_two: int = 2) -> _Encoding:
    return _Encoding(
        channels=channels, sample_bytes=bits // 8, to_rgb=to_rgb, rows_of_two=rows_of_two
    )


ENCODINGS = {
    **{f"rgb{bits}": _layout("", 3, bits) for bits in (8, 16)},
    **{f"bgr{bits}": _layout("COLOR_BGR2RGB", 3, bits) for bits in (8, 16)},
    **{f"rgba{bits}": _layout("COLOR_RGBA2RGB", 4, bits) for bits in (8, 16)},
    **{f"bgra{bits}": _layout("COLOR_BGRA2RGB", 4, bits) for bits in (8, 16)},
    **{f"mono{bits}": _layout("COLOR_GRAY2RGB", 1, bits) for bits in (8, 16)},
    **{
        f"bayer_{pattern}{bits}": _layout(f"COLOR_Bayer{pattern.upper()}2RGB", 1, bits)
        for pattern in ("rggb", "bggr", "gbrg", "grbg")
        for bits in (8, 16)
    },
    "8UC1": _layout("COLOR_GRAY2RGB", 1),
    "8UC3": _layout("COLOR_BGR2RGB", 3),
    "8UC4": _layout("COLOR_BGRA2RGB", 4),
    **dict.fromkeys(("yuv422", "uyvy"), _layout("COLOR_YUV2RGB_UYVY", 2)),
    **dict.fromkeys(("yuv422_yuy2", "yuyv"), _layout("COLOR_YUV2RGB_YUY2", 2)),
    "nv12": _layout("COLOR_YUV2RGB_NV12", 1, rows_of_two=3),
    "nv21": _layout("COLOR_YUV2RGB_NV21", 1, rows_of_two=3),
}
"""How pixels lie in memory, by the name that messages give; of 16 bits the higher 8 are kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawImage:
    """A picture as a camera's driver lays it out."""

    encoding: str
    """Name in `ENCODINGS`."""
    size_hw: tuple[int, int]
    """Height and width in pixels."""
    step_bytes: int
    """Bytes from one row to the next; more than a row's pixels need where rows are padded."""
    is_bigendian: bool
    """True when the higher byte of 16-bit samples comes first."""
    data: bytes | memoryview
    """All rows of all planes."""


def rgb_from_raw(image: RawImage) -> np.ndarray:
    """Unpack a raw picture.

    Args:
        image: The picture; encodings with two pixels in a group need even sides.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        SourceError: The encoding is not a known one.
        FrameError: The size, the step and the bytes don't fit each other.
        MissingExtraError: OpenCV is not installed.
    """
    if image.encoding not in ENCODINGS:
        raise SourceError(
            f"an image's encoding must be one of {', '.join(ENCODINGS)}; got {image.encoding!r}; "
            "name a topic of color images or convert it"
        )
    cv2 = require("cv2", extra="mcap")
    encoding = ENCODINGS[image.encoding]
    height, width = image.size_hw
    rows = height * encoding.rows_of_two // 2
    row_bytes = width * encoding.channels * encoding.sample_bytes
    is_whole = len(image.data) == rows * image.step_bytes and image.step_bytes >= row_bytes
    if not (is_whole and height and width and _has_whole_groups(encoding, height, width)):
        raise FrameError(
            f"{image.encoding} must be {rows} rows of at least {row_bytes} bytes for {width} x "
            f"{height} pixels (even where pixels share colors); got a step of {image.step_bytes} "
            f"and {len(image.data)} bytes; record it again"
        )
    lines = np.frombuffer(image.data, np.uint8).reshape(rows, image.step_bytes)[:, :row_bytes]
    samples = lines.reshape(rows, width, encoding.channels, encoding.sample_bytes)
    samples = samples[..., 0 if image.is_bigendian else -1]
    # OpenCV wants its own memory; a copy also lets go of the message.
    samples = np.array(samples[..., 0] if encoding.channels == 1 else samples, order="C")
    return cv2.cvtColor(samples, getattr(cv2, encoding.to_rgb)) if encoding.to_rgb else samples


def rgb_from_compressed(data: bytes | memoryview, form: str) -> np.ndarray:
    """Decompress a picture.

    Args:
        data: A whole file in JPEG, PNG or another format of OpenCV's.
        form: What the message calls the format; it only explains a failure.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FrameError: The picture is damaged, cut short or in another format.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = require("cv2", extra="mcap")
    try:
        image_bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image_bgr = None
    # Some versions of OpenCV fill up a JPEG that was cut short with grey.
    if image_bgr is None or is_jpeg_cut(bytes(data)):
        raise FrameError(
            f"a compressed image must be a whole JPEG or PNG; got {len(data)} bytes called "
            f"{form!r}; name another topic or record it again"
        )
    return cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)


def _has_whole_groups(encoding: _Encoding, height: int, width: int) -> bool:
    """True when each group of pixels that shares a color is whole."""
    needs_pairs = "YUV" in encoding.to_rgb
    return not (needs_pairs and width % 2 or encoding.rows_of_two == 3 and height % 2)
