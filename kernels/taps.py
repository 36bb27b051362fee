"""One axis of a resampling: which neighbouring samples, with which weights, make each new one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Taps", "bicubic", "bilinear", "compose", "resample", "resample_uint8"]

PILLOW_BITS = 22
"""Binary places of Pillow's weights (libImaging, Resample.c, PRECISION_BITS)."""
WORD_BITS = 15
"""Bits that torch's largest weight must fit into (ATen, UpSampleKernel.cpp, int16 weights)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """Output sample i is `weight[i] @ samples[start[i] : start[i] + T]`."""

    start: np.ndarray
    """(n,) int64, the first sample of each window; every window lies inside the source."""
    weight: np.ndarray
    """(n, T) float32; each row sums to one. Sums are taken in this dtype, float64 where fixed-point
    weights are too fine for exact sums in float32."""

    def part(self, outputs: slice) -> Taps:
        """Make only some of the output samples."""
        return Taps(start=self.start[outputs], weight=self.weight[outputs])


def bilinear(
    source: int, target: int, *, is_antialiased: bool = False, is_fixed_point: bool = False
) -> Taps:
    """Triangle filter from `source` to `target` samples with half-pixel centres.

    Equals torch.nn.functional.interpolate(mode="bilinear", align_corners=False); with
    `is_fixed_point` the weights are what Pillow (antialiased) and torch (not) take on uint8.
    """
    return _filtered(source, target, 1, _triangle, is_antialiased, is_fixed_point)


def bicubic(
    source: int, target: int, *, is_antialiased: bool = False, is_fixed_point: bool = False
) -> Taps:
    """Keys' cubic filter from `source` to `target` samples with half-pixel centres.

    Equals torch.nn.functional.interpolate(mode="bicubic", align_corners=False), which takes
    a = -0.75 as OpenCV does, and a = -0.5 as Pillow does when it is antialiased; see `bilinear`
    for `is_fixed_point`.
    """
    keys = _keys_pillow if is_antialiased else _keys
    return _filtered(source, target, 2, keys, is_antialiased, is_fixed_point)


def compose(first: Taps, second: Taps) -> Taps:
    """The taps of `first` followed by `second`; what `second` does not reach is cropped away."""
    middle = second.start[:, None] + np.arange(second.weight.shape[1])
    index = first.start[middle][:, :, None] + np.arange(first.weight.shape[1])
    weight = second.weight[:, :, None] * first.weight[middle]
    count = len(second.start)
    start, weight = _windows(index.reshape(count, -1), weight.reshape(count, -1))
    return Taps(start=start, weight=weight.astype(np.float32))


def resample(samples: np.ndarray, taps: Taps) -> np.ndarray:
    """Resample the first axis.

    Args:
        samples: (source, ...) of any real dtype.
        taps: From `source` to n samples.

    Returns:
        (n, ...) float32.
    """
    rows = samples.reshape(len(samples), -1)
    resampled = np.empty((len(taps.start), rows.shape[1]), np.float32)
    width = taps.weight.shape[1]
    for row, first, weight in zip(resampled, taps.start.tolist(), taps.weight, strict=True):
        np.matmul(weight, rows[first : first + width].astype(np.float32, copy=False), out=row)
    return resampled.reshape(len(resampled), *samples.shape[1:])


def resample_uint8(samples: np.ndarray, taps: Taps) -> np.ndarray:
    """Resample the first axis and round halves up, exactly as integer arithmetic does.

    Args:
        samples: (source, ...) uint8.
        taps: From `source` to n samples, with fixed-point weights.

    Returns:
        (n, ...) uint8.
    """
    rows = samples.reshape(len(samples), -1)
    resampled = np.empty((len(taps.start), rows.shape[1]), np.uint8)
    width, overshoots = taps.weight.shape[1], taps.weight.min() < 0
    for row, first, weight in zip(resampled, taps.start.tolist(), taps.weight, strict=True):
        total = weight @ rows[first : first + width].astype(weight.dtype)
        total += 0.5
        row[:] = total.clip(0, 255) if overshoots else total
    return resampled.reshape(len(resampled), *samples.shape[1:])


def _filtered(
    source: int,
    target: int,
    radius: int,
    kernel: Callable[[np.ndarray], np.ndarray],
    is_antialiased: bool,
    is_fixed_point: bool,
) -> Taps:
    """Sample `kernel`, which is zero outside -radius to radius, around each output's centre."""
    scale = source / target
    stretch = max(scale, 1.0) if is_antialiased else 1.0
    centre = (np.arange(target) + 0.5) * scale
    first = np.floor(centre - radius * stretch + 0.5).astype(np.int64)
    index = first[:, None] + np.arange(math.ceil(2 * radius * stretch) + 1)
    # In Pillow's order of operations: its fixed-point weights follow to the last bit.
    weight = kernel((index - centre[:, None] + 0.5) * (1 / stretch))
    inside = np.clip(index, 0, source - 1)
    if is_antialiased:
        weight[index != inside] = 0
        weight /= weight.sum(1, keepdims=True)
    start, weight = _windows(inside, weight)
    if not is_fixed_point:
        return Taps(start=start, weight=weight.astype(np.float32))
    if is_antialiased:
        return Taps(start=start, weight=_fixed_point(weight, PILLOW_BITS))
    bits = _bits_of_a_word(weight.max())
    return Taps(start=start, weight=_fixed_point(weight, bits).astype(np.float32))


def _fixed_point(weight: np.ndarray, bits: int) -> np.ndarray:
    """Round to multiples of 2 to the -bits, halves away from zero."""
    return np.trunc(weight * 2.0**bits + np.copysign(0.5, weight)) / 2.0**bits


def _bits_of_a_word(largest: float) -> int:
    """The most binary places, up to Pillow's, with which `largest` still is an int16."""
    bits = 0
    while bits < PILLOW_BITS and int(largest * 2 ** (bits + 1) + 0.5) < 2**WORD_BITS:
        bits += 1
    return bits


def _windows(index: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gather (n, K) weights of source indices, which may repeat, into windows without gaps.

    Returns the windows' starts (n,) int64 and weights (n, T) float64.
    """
    is_used = weight != 0
    start = np.where(is_used, index, index.max()).min(1)
    width = int(np.where(is_used, index - start[:, None], 0).max()) + 1
    start = np.minimum(start, index.max() + 1 - width)
    place = (index - start[:, None] + width * np.arange(len(index))[:, None])[is_used]
    dense = np.bincount(place, weight[is_used], minlength=len(index) * width)
    return start, dense.reshape(-1, width)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _keys(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' cubic convolution (IEEE ASSP 29(6), 1981), interpolating for every `a`."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _keys_pillow(x: np.ndarray) -> np.ndarray:
    return _keys(x, a=-0.5)
