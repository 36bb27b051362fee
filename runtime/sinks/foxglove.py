"""A frame and its masks as messages that Foxglove shows: a JPEG, and annotations upon it.

Source: the schemas foxglove.CompressedImage and foxglove.ImageAnnotations of the Foxglove SDK, in
Protocol Buffers, which need no base64 for a picture and are read by every version of Foxglove.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np

from ..errors import require
from ..masks import Masks
from ..overlay import PALETTE_RGB

__all__ = ["compressed_image", "image_annotations"]

_JPEG_QUALITY = 90
_FILL_OPACITY = 0.45
_PAPER_RGB = (0, 0, 0)
_PAPER_OPACITY = 0.7


def compressed_image(image_hwc: np.ndarray, stamp_ns: int) -> Any:
    """Compress a picture.

    Args:
        image_hwc: (H, W, 3) uint8 RGB.
        stamp_ns: When it was taken, in nanoseconds since 1970.

    Returns:
        A foxglove.CompressedImage in JPEG.

    Raises:
        MissingExtraError: The schemas or OpenCV are not installed.
    """
    cv2 = require("cv2", extra="mcap")
    schema = require("foxglove_schemas_protobuf.CompressedImage_pb2", extra="mcap")
    quality = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image_hwc, cv2.COLOR_RGB2BGR), quality)
    return schema.CompressedImage(timestamp=_timestamp(stamp_ns), data=bytes(data), format="jpeg")


def image_annotations(masks: Masks, stamp_ns: int) -> Any:
    """Outline, fill and name each mask that isn't empty.

    A loop runs through the centers of a mask's outermost pixels. Foxglove fills a loop whole, so
    a hole is outlined and not cut out. Masks with the same label share a color, which is the one
    they have in an overlay.

    Args:
        masks: Masks of one frame.
        stamp_ns: When the frame was taken, in nanoseconds since 1970.

    Returns:
        A foxglove.ImageAnnotations in pixels of the frame, whose origin is the top left corner of
        the top left pixel.

    Raises:
        MissingExtraError: The schemas or OpenCV are not installed.
    """
    schema = require("foxglove_schemas_protobuf.ImageAnnotations_pb2", extra="mcap")
    annotations = schema.ImageAnnotations(timestamp=_timestamp(stamp_ns))
    colors_rgb = dict(zip(dict.fromkeys(masks.labels), cycle(PALETTE_RGB), strict=False))
    height, width = masks.boolean.shape[1:]
    for number in np.flatnonzero(masks.boolean.any(axis=(1, 2))):
        label = masks.labels[number]
        _add_outlines(annotations, masks.boolean[number], colors_rgb[label])
        left, top = masks.boxes_xyxy[number, :2].tolist()
        font_px = max(12.0, max(height, width) / 50)
        annotations.texts.add(
            position={"x": left, "y": max(top, font_px)},
            text=f"{label} {masks.scores[number]:.2f}",
            font_size=font_px,
            text_color=_color(colors_rgb[label]),
            background_color=_color(_PAPER_RGB, _PAPER_OPACITY),
        )
    return annotations


def _add_outlines(annotations: Any, mask_hw: np.ndarray, color_rgb: tuple[int, int, int]) -> None:
    """Append a closed line for each part of a mask and for each hole in it."""
    cv2 = require("cv2", extra="mcap")
    outlines, tree = cv2.findContours(
        mask_hw.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    for outline, (*_, parent) in zip(outlines, tree[0], strict=True):
        annotations.points.add(
            type="LINE_LOOP",
            points=[{"x": x, "y": y} for x, y in (outline[:, 0] + 0.5).tolist()],
            outline_color=_color(color_rgb),
            fill_color=_color(color_rgb, _FILL_OPACITY if parent < 0 else 0.0),
            thickness=max(1.0, max(mask_hw.shape) / 480),
        )


def _color(color_rgb: tuple[int, int, int], opacity: float = 1.0) -> dict[str, float]:
    red, green, blue = (level / 255 for level in color_rgb)
    return {"r": red, "g": green, "b": blue, "a": opacity}


def _timestamp(stamp_ns: int) -> dict[str, int]:
    seconds, nanos = divmod(stamp_ns, 10**9)
    return {"seconds": seconds, "nanos": nanos}
