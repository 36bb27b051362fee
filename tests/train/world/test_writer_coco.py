from __future__ import annotations

import contextlib
import io

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.formats import write_dataset
from saymask.train.world.truth import part_label

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"  # pycocotools under NumPy 2
)

SIZE_HW = (96, 128)


def test_pycocotools_reads_back_the_worlds_masks(tmp_path) -> None:
    records = write_dataset("coco", tmp_path, "val", 4, SIZE_HW, 11)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "annotations" / "instances_val.json")
    assert len(coco.anns) == records
    for number, image_id in enumerate(sorted(coco.imgs)):
        drawing = draw(compose(11 + number, "val"), SIZE_HW)
        info = coco.imgs[image_id]
        image = cv2.imread(str(tmp_path / "images" / "val" / info["file_name"]))
        assert image.shape == (info["height"], info["width"], 3)
        assert np.abs(image[..., ::-1].astype(int) - drawing.image_hwc).mean() < 6
        painted = np.zeros(SIZE_HW, int)
        whole_of: dict[int, int] = {}
        for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
            mask_hw = coco.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask_hw.sum()
            name, _, part = coco.cats[annotation["category_id"]]["name"].partition(":")
            if not part:
                assert annotation["obj_ann_id"] == annotation["id"]
                (label,) = np.unique(drawing.instance_map_hw[mask_hw])
                assert drawing.scene.objects[label - 1].category == name
                np.testing.assert_array_equal(mask_hw, drawing.instance_map_hw == label)
                whole_of[annotation["id"]] = int(label)
                painted[mask_hw] = label
            else:
                expected = drawing.instance_map_hw == whole_of[annotation["obj_ann_id"]]
                expected = expected & (drawing.part_map_hw == part_label(name, part))
                np.testing.assert_array_equal(mask_hw, expected)
        np.testing.assert_array_equal(painted, drawing.instance_map_hw)
