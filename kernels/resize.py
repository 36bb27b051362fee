"""A frame as the input of a network: resized, normalised, padded and laid out NCHW."""

from __future__ import annotations

import numpy as np

from .taps import Taps, bicubic, bilinear, resample, resample_uint8

__all__ = ["FILTERS", "normalize_nchw", "resize_chw"]

FILTERS = {"bilinear": bilinear, "bicubic": bicubic}
"""Interpolation names and the filters they stand for."""


def resize_chw(
    image_hwc: np.ndarray,
    size_hw: tuple[int, int],
    *,
    interpolation: str,
    is_antialiased: bool,
    rounds_to_uint8: bool = False,
) -> np.ndarray:
    """Resize an image as torch.nn.functional.interpolate does on floats, or on uint8.

    With `rounds_to_uint8` each row is resampled and rounded before each column, in fixed point:
    antialiased this is Pillow's Image.resize and otherwise torch's interpolate on uint8, bit by
    bit. (Not that of Pillow from 13 on where the height shrinks far more than the width, and not
    that of torch before 2.1.) Floats differ from torch's by what it rounds off its source
    coordinates, which are float32: for frames up to 4K by less than 0.1 of 255.

    Args:
        image_hwc: (H, W, C) uint8 or float32; uint8 where the result is rounded.
        size_hw: Height and width of the result in pixels, h and w.
        interpolation: Key of `FILTERS`.
        is_antialiased: True to widen the filter where the image is scaled down.
        rounds_to_uint8: True to round as those libraries do on uint8.

    Returns:
        (C, h, w), uint8 where rounded, else float32 in the units of `image_hwc`; bicubic floats may
        overshoot its range.
    """
    vertical, horizontal = (
        FILTERS[interpolation](
            source, target, is_antialiased=is_antialiased, is_fixed_point=rounds_to_uint8
        )
        for source, target in zip(image_hwc.shape[:2], size_hw, strict=True)
    )
    if rounds_to_uint8:
        columns_wch = resample_uint8(image_hwc.transpose(1, 2, 0), horizontal)
        rows_hcw = resample_uint8(columns_wch.transpose(2, 1, 0), vertical)
        return np.ascontiguousarray(rows_hcw.swapaxes(0, 1))
    return _resample_last_leads(_resample_last_leads(image_hwc, vertical), horizontal)


def normalize_nchw(
    image_chw: np.ndarray,
    size_hw: tuple[int, int],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> np.ndarray:
    """Normalise an image, then pad it with zeros on the right and below.

    Args:
        image_chw: (C, h, w) uint8 or float32.
        size_hw: Height and width of the result in pixels, H >= h and W >= w.
        mean: Subtracted from each channel.
        std: Divides each channel's difference.

    Returns:
        (1, C, H, W) float32.
    """
    channels, height, width = image_chw.shape
    padded = np.zeros((1, channels, *size_hw), np.float32)
    inner = padded[0, :, :height, :width]
    np.subtract(image_chw, np.array(mean, np.float32)[:, None, None], out=inner)
    inner /= np.array(std, np.float32)[:, None, None]
    return padded


def _resample_last_leads(image: np.ndarray, taps: Taps) -> np.ndarray:
    """Resample the first of three axes and move it last: (H, W, C) -> (W, C, h) -> (C, h, w)."""
    return np.ascontiguousarray(np.moveaxis(resample(image, taps), 0, 2))
