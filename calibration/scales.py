"""Real values as integers: scales, zero points and int8 weights."""

from __future__ import annotations

import numpy as np

from ..runtime.machine import sums_overflow
from .ranges import Range

__all__ = ["affine_uint8", "least_scale", "plain_int8", "symmetric_int8", "weight_bits_here"]


def affine_uint8(values: Range) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale (float32 scalar) and the zero point (uint8 scalar) of a range.

    The range is widened to hold zero, which padding and ReLU need exactly.
    """
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    scale = np.float32((high - low) / 255) or np.float32(1)
    return np.array(scale), np.array(np.rint(-low / scale), np.uint8)


def plain_int8(values: Range) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale (float32 scalar) of a range without a zero point, and 0 (int8 scalar)."""
    scale = np.float32(max(-values.low, values.high) / 127) or np.float32(1)
    return np.array(scale), np.zeros((), np.int8)


def weight_bits_here() -> int:
    """Return the bits of weights whose products with uint8 this processor adds without overflow.

    Two products of 255 and 63 fit into the 16 bits of `machine.sums_overflow`; of 127 they don't.
    """
    return 7 if sums_overflow() else 8


def symmetric_int8(
    weight: np.ndarray, *, axis: int, least: np.ndarray | float = 0.0, bits: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Round each channel of a weight by its own scale, with zero point 0.

    Args:
        weight: float of any shape.
        axis: The axis of the channels.
        least: Lower bound of the scales, float (channels,) or one for all.
        bits: 8, or 7 for processors whose sums overflow, see `weight_bits_here`.

    Returns:
        Integers int8 of `weight`'s shape in [-127, 127], of 7 bits in [-63, 63], and scales float32
        (channels,).
    """
    most = 2 ** (bits - 1) - 1
    others = tuple(number for number in range(weight.ndim) if number != axis)
    scale = np.maximum(np.abs(weight).max(axis=others) / most, least).astype(np.float32)
    scale[scale == 0] = 1
    integers = np.rint(weight / np.expand_dims(scale, others))
    return np.clip(integers, -most, most).astype(np.int8), scale


def least_scale(bias: np.ndarray, input_scale: np.ndarray) -> np.ndarray:
    """Return the weight scales below which `bias`, in units of both scales, overflows int32.

    Folding a BatchNorm can leave a dead channel: tiny weights beside a bias of ordinary size.

    Args:
        bias: float32 (channels,).
        input_scale: float32 scalar.
    """
    return np.abs(bias) / (np.float64(input_scale) * 2**30)
