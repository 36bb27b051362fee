"""One axis of a resampling: which neighbouring samples, with which weights, make each new one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Taps", "bicubic", "bilinear", "compose", "resample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """Output sample i is `weight[i] @ samples[start[i] : start[i] + T]`."""

    start: np.ndarray
    """(n,) int64, the first sample of each window; every window lies inside the source."""
    weight: np.ndarray
    """(n, T) float32; each row sums to one."""

    def part(self, outputs: slice) -> Taps:
        """Make only some of the output samples."""
        return Taps(start=self.start[outputs], weight=self.weight[outputs])


def bilinear(source: int, target: int, *, is_antialiased: bool = False) -> Taps:
    """Triangle filter from `source` to `target` samples with half-pixel centres.

    Equals torch.nn.functional.interpolate(mode="bilinear", align_corners=False).
    """
    return _filtered(source, target, 1, _triangle, is_antialiased)


def bicubic(source: int, target: int, *, is_antialiased: bool = False) -> Taps:
    """Keys' cubic filter from `source` to `target` samples with half-pixel centres.

    Equals torch.nn.functional.interpolate(mode="bicubic", align_corners=False), which takes
    a = -0.75 as OpenCV does, and a = -0.5 as Pillow does when it is antialiased.
    """
    return _filtered(source, target, 2, _keys_pillow if is_antialiased else _keys, is_antialiased)


def compose(first: Taps, second: Taps) -> Taps:
    """The taps of `first` followed by `second`; what `second` does not reach is cropped away."""
    middle = second.start[:, None] + np.arange(second.weight.shape[1])
    index = first.start[middle][:, :, None] + np.arange(first.weight.shape[1])
    weight = second.weight[:, :, None] * first.weight[middle]
    count = len(second.start)
    return _windows(index.reshape(count, -1), weight.reshape(count, -1))


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


def _filtered(
    source: int,
    target: int,
    radius: int,
    kernel: Callable[[np.ndarray], np.ndarray],
    is_antialiased: bool,
) -> Taps:
    """Sample `kernel`, which is zero outside -radius to radius, around each output's centre."""
    scale = source / target
    stretch = max(scale, 1.0) if is_antialiased else 1.0
    centre = (np.arange(target) + 0.5) * scale
    first = np.floor(centre - radius * stretch + 0.5).astype(np.int64)
    index = first[:, None] + np.arange(math.ceil(2 * radius * stretch) + 1)
    weight = kernel((index + 0.5 - centre[:, None]) / stretch)
    inside = np.clip(index, 0, source - 1)
    if is_antialiased:
        weight[index != inside] = 0
        weight /= weight.sum(1, keepdims=True)
    return _windows(inside, weight)


def _windows(index: np.ndarray, weight: np.ndarray) -> Taps:
    """Gather (n, K) weights of source indices, which may repeat, into windows without gaps."""
    is_used = weight != 0
    start = np.where(is_used, index, index.max()).min(1)
    width = int(np.where(is_used, index - start[:, None], 0).max()) + 1
    start = np.minimum(start, index.max() + 1 - width)
    place = (index - start[:, None] + width * np.arange(len(index))[:, None])[is_used]
    dense = np.bincount(place, weight[is_used], minlength=len(index) * width)
    return Taps(start=start, weight=dense.reshape(-1, width).astype(np.float32))


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
