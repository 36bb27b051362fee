"""The tight box around each mask."""

from __future__ import annotations

import numpy as np

__all__ = ["boxes_xyxy_from_masks"]


def boxes_xyxy_from_masks(masks_nhw: np.ndarray) -> np.ndarray:
    """Measure masks.

    Args:
        masks_nhw: (N, H, W) bool.

    Returns:
        (N, 4) float32, left, top, right and bottom in pixels; right and bottom are one past the
        last pixel. An empty mask has a box of zeros.
    """
    boxes_xyxy = np.zeros((len(masks_nhw), 4), np.float32)
    for box, mask_hw in zip(boxes_xyxy, masks_nhw, strict=True):
        columns, rows = np.flatnonzero(mask_hw.any(0)), np.flatnonzero(mask_hw.any(1))
        if rows.size:
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes_xyxy
