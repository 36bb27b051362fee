"""Small numbers in place of real ones: INT8, INT4 and FP8, and how values are rounded to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

__all__ = ["ELEMENTS", "Element"]

_HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One type of small number. A value is a number times a scale; there is no zero point."""

    dtype: np.dtype
    """How NumPy holds it."""
    largest: int
    """Largest magnitude in use, the same on both sides of zero."""
    is_integer: bool
    """Whether values are rounded to integers."""

    def scale(self, magnitude: np.ndarray | float) -> np.ndarray:
        """Return scales that represent magnitudes.

        FP16 holds each of them exactly, so that a graph can be made FP16 without changing a value.

        Args:
            magnitude: Largest absolute values, float of any shape, not negative.

        Returns:
            float32 of the same shape, positive; 1 where there is nothing but zeros.
        """
        exact = np.minimum(np.asarray(magnitude, np.float64) / self.largest, _HALF_MAX)
        half = exact.astype(np.float16)
        half = np.where(half < exact, np.nextafter(half, np.float16(_HALF_MAX)), half)
        return np.where(half == 0, 1, half).astype(np.float32)

    def round(self, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the nearest numbers, ties to even, of values that are cut off at `largest`.

        Args:
            values: float32 of any shape.
            scale: float32 that spreads over it.
        """
        ratios = values / scale
        if self.is_integer:
            ratios = np.rint(ratios)
        return np.clip(ratios, -self.largest, self.largest).astype(self.dtype)


ELEMENTS = {
    "int4": Element(
        dtype=helper.tensor_dtype_to_np_dtype(TensorProto.INT4), largest=7, is_integer=True
    ),
    "int8": Element(dtype=np.dtype(np.int8), largest=127, is_integer=True),
    "fp8": Element(
        dtype=helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN),
        largest=448,
        is_integer=False,
    ),
}
"""Name -> number; "fp8" is E4M3, which has no infinity."""
