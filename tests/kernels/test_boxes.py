"""Boxes are tight and exclusive on the right and below."""

from __future__ import annotations

import numpy as np

from saymask.kernels.boxes import boxes_xyxy_from_masks


def test_tight_boxes():
    masks_nhw = np.zeros((3, 6, 9), np.bool_)
    masks_nhw[0, 1:3, 4:9] = True
    masks_nhw[1, 5, 0] = masks_nhw[1, 2, 3] = True
    boxes_xyxy = boxes_xyxy_from_masks(masks_nhw)
    assert boxes_xyxy.dtype == np.float32
    assert boxes_xyxy.tolist() == [[4, 1, 9, 3], [0, 2, 4, 6], [0, 0, 0, 0]]


def test_no_masks():
    assert boxes_xyxy_from_masks(np.zeros((0, 6, 9), np.bool_)).shape == (0, 4)
