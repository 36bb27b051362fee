"""COCO run lengths: a boolean mask as a short string, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["decode", "encode"]


def encode(mask_hw: np.ndarray) -> dict[str, Any]:
    """Write a mask as COCO's compressed run lengths.

    Args:
        mask_hw: (H, W) bool, True inside the mask.

    Returns:
        {"size": [H, W], "counts": str}, as pycocotools writes it. Runs go down the columns and
        begin with a run of False.

    Raises:
        ValueError: `mask_hw` is not a boolean plane.
    """
    if mask_hw.ndim != 2 or mask_hw.dtype != np.bool_:
        raise ValueError(f"a mask must be bool (H, W); got {mask_hw.dtype} {mask_hw.shape}")
    height, width = mask_hw.shape
    return {"size": [height, width], "counts": _text_from_runs(_runs_from_mask(mask_hw))}


def decode(rle: Mapping[str, Any]) -> np.ndarray:
    """Draw COCO's compressed run lengths as a mask.

    Args:
        rle: {"size": [H, W], "counts": str or bytes}.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: The runs do not add up to H * W pixels.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    runs = _runs_from_text(counts.encode("ascii") if isinstance(counts, str) else counts)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"run lengths must be >= 0 and add up to {height} x {width} = {height * width} pixels; "
            f"got {runs.sum()} in {runs.size} runs"
        )
    columns = np.repeat(np.arange(runs.size) % 2 == 1, runs)
    return np.ascontiguousarray(columns.reshape(width, height).T)


def _runs_from_mask(mask_hw: np.ndarray) -> np.ndarray:
    """Lengths (int64) of the alternating runs of False and True, down the columns."""
    height, width = mask_hw.shape
    if mask_hw.size == 0:
        return np.zeros(1, np.int64)
    starts_new_run = np.empty((height, width), np.bool_)
    np.not_equal(mask_hw[1:], mask_hw[:-1], out=starts_new_run[1:])
    np.not_equal(mask_hw[0, 1:], mask_hw[-1, :-1], out=starts_new_run[0, 1:])
    starts_new_run[0, 0] = mask_hw[0, 0]
    # Sorting the few changes is quicker than turning the whole plane column by column.
    row, column = np.divmod(np.flatnonzero(starts_new_run), width)
    changes = np.sort(column * height + row)
    return np.diff(changes, prepend=0, append=mask_hw.size)


def _text_from_runs(runs: np.ndarray) -> str:
    """Pack runs as pycocotools does: differences to the run before last, five bits a character.

    A character is 48 + five bits, plus 32 while more of the number follows; the highest of the
    five bits in the last character is the sign (maskApi.c, rleToString).
    """
    left = runs.copy()
    left[3:] -= runs[1:-2]
    characters, kept = [], []
    is_open = np.ones(left.size, np.bool_)
    while is_open.any():
        bits = left & 31
        left >>= 5
        has_more = is_open & (left != -(bits >> 4))
        characters.append(48 + bits + 32 * has_more)
        kept.append(is_open)
        is_open = has_more
    return np.stack(characters, 1)[np.stack(kept, 1)].astype(np.uint8).tobytes().decode("ascii")


def _runs_from_text(text: bytes) -> np.ndarray:
    """Unpack what `_text_from_runs` packs into runs (int64)."""
    symbols = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    is_last = (symbols & 32) == 0
    if symbols.size == 0 or not is_last[-1] or ((symbols < 0) | (symbols > 63)).any():
        raise ValueError(f"run lengths must be COCO's compressed text; got {text[:40]!r}")
    starts = np.flatnonzero(np.concatenate(([True], is_last[:-1])))
    place = np.arange(symbols.size) - np.repeat(starts, np.diff(starts, append=symbols.size))
    sign = np.where(is_last & ((symbols & 16) != 0), -32, 0)
    runs = np.add.reduceat(((symbols & 31) + sign) << (5 * place), starts)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
