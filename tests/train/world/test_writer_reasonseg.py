from __future__ import annotations

import json

import cv2
import numpy as np

from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.formats import write_dataset
from saymask.train.world.speak import express
from saymask.train.world.truth import mask_of

SIZE_HW = (120, 160)
SEED = 40
IGNORED = 255


def lisa_mask(record: dict) -> np.ndarray:
    """Draw the polygons as LISA's `get_mask_from_json` does: the largest first."""
    areas, shapes = [], []
    for shape in record["shapes"]:
        area_hw = np.zeros(SIZE_HW, np.uint8)
        paint(area_hw, shape["points"], 1)
        areas.append(area_hw.sum())
        shapes.append(shape)
    mask_hw = np.zeros(SIZE_HW, np.uint8)
    for index in np.argsort(areas)[::-1]:
        label = IGNORED if "ignore" in shapes[index]["label"] else 1
        paint(mask_hw, shapes[index]["points"], label)
    return mask_hw


def paint(mask_hw: np.ndarray, points: list, value: int) -> None:
    polygon = np.array([points], dtype=np.int32)
    cv2.polylines(mask_hw, polygon, True, value, 1)
    cv2.fillPoly(mask_hw, polygon, value)


def test_polygons_give_back_the_worlds_masks(tmp_path) -> None:
    records = write_dataset("reasonseg", tmp_path, "val", 24, SIZE_HW, SEED)
    paths = sorted((tmp_path / "ReasonSeg" / "val").glob("*.json"))
    phrases, ignored, kinds = 0, 0, set()
    for path in paths:
        assert path.with_suffix(".jpg").is_file()
        record = json.loads(path.read_text(encoding="utf-8"))
        seed = SEED + int(path.stem) - 1
        drawing = draw(compose(seed, "val"), SIZE_HW)
        said = {
            each.text: mask_of(drawing, each.targets)
            for each in express(drawing, seed=seed, tasks=("implicit", "single", "multi"))
        }
        read_hw = lisa_mask(record)
        ignored += int((read_hw == IGNORED).sum())
        for text in record["text"]:
            truth_hw = said[text]
            np.testing.assert_array_equal(truth_hw, read_hw == 1)
            assert record["is_sentence"] == (text[-1] in "?.")
        phrases += len(record["text"])
        kinds.add(record["is_sentence"])
    assert phrases == records
    assert kinds == {True, False}
    assert ignored > 0
