"""Masks measure their boxes and write themselves in other people's formats."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from saymask.kernels.rle import decode
from saymask.runtime.errors import MissingExtraError
from saymask.runtime.masks import Masks


def _masks() -> Masks:
    boolean = np.zeros((2, 5, 7), np.bool_)
    boolean[0, 1:3, 2:6] = True
    return Masks.of(boolean, np.array([0.9, 0], np.float32), ("mug", "lamp"))


def test_boxes_and_count():
    masks = _masks()
    assert len(masks) == 2
    assert masks.boxes_xyxy.tolist() == [[2, 1, 6, 3], [0, 0, 0, 0]]
    assert masks.answer == ""
    assert masks.timings_ms == ()


def test_rle_holds_every_mask():
    masks = _masks()
    np.testing.assert_array_equal([decode(rle) for rle in masks.rle()], masks.boolean)


@pytest.mark.skipif(importlib.util.find_spec("supervision") is not None, reason="it is installed")
def test_without_supervision():
    with pytest.raises(MissingExtraError, match="supervision"):
        _masks().to_supervision()


def test_to_supervision():
    pytest.importorskip("supervision")
    detections = _masks().to_supervision()
    assert detections.xyxy.tolist() == [[2, 1, 6, 3], [0, 0, 0, 0]]
    assert detections.data["class_name"].tolist() == ["mug", "lamp"]
