from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.formats import write_dataset
from saymask.train.world.speak import express
from saymask.train.world.truth import mask_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"  # pycocotools under NumPy 2
)

SIZE_HW = (96, 128)
SEED = 60


@pytest.mark.parametrize(("split", "called"), [("train", "train"), ("test", "test_mixed")])
def test_each_seg_has_its_mask(split: str, called: str, tmp_path) -> None:
    count = write_dataset("mmr", tmp_path, split, 6, SIZE_HW, SEED)
    records = json.loads((tmp_path / "MMR" / f"MMR_{called}.json").read_text())
    images = tmp_path / "refer_seg" / "images" / "mscoco" / "images"
    for record in records:
        assert (images / record["file_name"]).is_file()
        assert (record["height"], record["width"]) == SIZE_HW
        seed = SEED + record["image_id"] - 1
        drawing = draw(compose(seed, split), SIZE_HW)
        said = {e.text: e for e in express(drawing, seed=seed, tasks=("implicit",))}
        columns = (record[name] for name in ("questions", "text_answers", "answers"))
        for question, text_answer, answers in zip(*columns, strict=True):
            assert text_answer.count("{seg}") == len(answers)
            assert text_answer.format(seg="[SEG]")[-1] != "."
            for answer, target in zip(answers, said[question].targets, strict=True):
                mask_hw = coco_mask.decode(answer["segmentation"]).astype(bool)
                np.testing.assert_array_equal(mask_hw, mask_of(drawing, (target,)))
                category, _, part = answer["category_name"].partition(":")
                assert category == drawing.scene.objects[target.object_index].category
                assert (part or None) == target.part
                assert answer in record["annotations"][answer["category_name"]]
    assert sum(len(record["questions"]) for record in records) == count > 10
