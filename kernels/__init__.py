"""The arithmetic on pixels: views of a frame, masks at frame size, run lengths and boxes.

Each file is a NumPy reference that a native kernel has to match.
"""

from __future__ import annotations

from . import rle
from .boxes import boxes_xyxy_from_masks
from .resize import normalize_nchw, resize_chw
from .upsample import masks_from_logits

__all__ = ["boxes_xyxy_from_masks", "masks_from_logits", "normalize_nchw", "resize_chw", "rle"]
