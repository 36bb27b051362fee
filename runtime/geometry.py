"""The one place where a frame becomes a network's input and its logits become masks again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernels.resize import FILTERS, normalize_nchw, resize_chw
from ..kernels.taps import Taps, bilinear, compose
from ..kernels.upsample import masks_from_logits
from .errors import FrameError, UnknownNameError
from .spec import ViewSpec

__all__ = ["FITS", "Placement", "back", "check_frame", "fit", "inside_hw"]

FITS = ("fill", "pad", "stretch")
"""How a frame may be brought to a view's size, see `ViewSpec.fit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a frame lies in a view; `back` undoes it."""

    frame_hw: tuple[int, int]
    """Height and width of the frame in pixels."""
    view: ViewSpec
    """The view it lies in."""


def fit(frame: np.ndarray, view: ViewSpec) -> tuple[np.ndarray, Placement]:
    """Turn a frame into the input of a network.

    Args:
        frame: (H, W, 3) uint8 RGB.
        view: Size, fit, interpolation and normalisation that the network was trained with.

    Returns:
        The input (1, 3, h, w) float32 and where the frame lies in it.

    Raises:
        FrameError: `frame` is not such an array or has no pixels.
        UnknownNameError: The view's fit or interpolation is not known here.
    """
    check_frame(frame)
    if view.fit not in FITS:
        raise UnknownNameError("fit", view.fit, FITS)
    if view.interpolation not in FILTERS:
        raise UnknownNameError("interpolation", view.interpolation, FILTERS)
    frame_hw = frame.shape[0], frame.shape[1]
    resized = _resized_chw(frame, frame_hw, view)
    image = normalize_nchw(resized, view.size_hw, mean=view.mean_rgb, std=view.std_rgb)
    return image, Placement(frame_hw=frame_hw, view=view)


def back(
    logits_nhw: np.ndarray, placement: Placement, *, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Turn logits over a view into masks over its frame.

    A padded view takes the two bilinear steps of SAM's postprocess_masks, to the view's canvas and
    after a crop to the frame's size; both are one here. The other views take one step.

    Args:
        logits_nhw: (N, h, w) float32 over the whole view, at any resolution.
        placement: What `fit` returned beside the view.
        threshold: A pixel belongs to a mask when its logit is above this.

    Returns:
        Masks (N, H, W) bool and scores (N,) float32 in [0, 1], see `masks_from_logits`.
    """
    vertical, horizontal = (
        _way_back(source, placement, axis) for axis, source in enumerate(logits_nhw.shape[1:])
    )
    return masks_from_logits(logits_nhw, vertical, horizontal, threshold=threshold)


def inside_hw(placement: Placement) -> tuple[int, int]:
    """Return the size that a frame has on its view's canvas, in the canvas' pixels."""
    view = placement.view
    return _within(view.canvas_hw, placement.frame_hw) if view.fit == "pad" else view.canvas_hw


def check_frame(frame: np.ndarray) -> None:
    """Raise a FrameError unless `frame` is a uint8 (H, W, 3) array with pixels."""
    is_array = isinstance(frame, np.ndarray)
    if is_array and frame.dtype == np.uint8 and frame.shape[2:] == (3,) and frame.size:
        return
    got = f"{frame.dtype} {frame.shape}" if is_array else type(frame).__name__
    raise FrameError(
        f"a frame must be a uint8 (H, W, 3) RGB array with at least one pixel; got {got}; "
        "scale floats to 0..255 and cast them, drop alpha, repeat gray, put channels last"
    )


def _resized_chw(frame: np.ndarray, frame_hw: tuple[int, int], view: ViewSpec) -> np.ndarray:
    scaled = resize_chw(
        frame,
        view.size_hw if view.fit == "stretch" else _within(view.size_hw, frame_hw),
        interpolation=view.interpolation,
        is_antialiased=view.is_antialiased,
        rounds_to_uint8=view.rounds_to_uint8,
    )
    if view.fit != "fill":
        return scaled
    scaled_hwc = scaled.transpose(1, 2, 0)
    return resize_chw(scaled_hwc, view.size_hw, interpolation="bilinear", is_antialiased=False)


def _within(size_hw: tuple[int, int], frame_hw: tuple[int, int]) -> tuple[int, int]:
    """Return a frame's size scaled to fit inside another (segment_anything, ResizeLongestSide)."""
    height, width = frame_hw
    scale = min(size_hw[0] / height, size_hw[1] / width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def _way_back(source: int, placement: Placement, axis: int) -> Taps:
    view, frame = placement.view, placement.frame_hw[axis]
    if view.fit != "pad":
        return bilinear(source, frame)
    inside = inside_hw(placement)[axis]
    return compose(bilinear(source, view.canvas_hw[axis]), bilinear(inside, frame))
