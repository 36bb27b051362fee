from __future__ import annotations

import json
import pickle
import re

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
SEED = 20


def lisa_mask(annotation: dict) -> np.ndarray:
    """Decode a segmentation as LISA's refer_seg data set does."""
    rle = annotation["segmentation"]
    assert not isinstance(rle[0], list)
    for each in rle:
        each["counts"] = each["counts"].encode()
    return coco_mask.decode(rle).sum(axis=2).astype(bool)


@pytest.mark.parametrize(
    ("name", "file", "task", "split", "called"),
    [
        ("refcoco", "refs(unc).p", "single", "test", "testA"),
        ("grefcoco", "grefs(unc).json", "multi", "train", "train"),
    ],
)
def test_phrases_lead_to_the_worlds_masks(name, file, task, split, called, tmp_path) -> None:
    records = write_dataset(name, tmp_path, split, 6, SIZE_HW, SEED)
    data = (tmp_path / name / file).read_bytes()
    refs = pickle.loads(data, encoding="latin1") if file.endswith(".p") else json.loads(data)
    instances = json.loads((tmp_path / name / "instances.json").read_text())
    annotations = {each["id"]: each for each in instances["annotations"]}
    masks = {number: lisa_mask(annotation) for number, annotation in annotations.items()}
    images = {each["id"]: each for each in instances["images"]}
    said = {}
    for ref in refs:
        assert ref["split"] == called
        image = images[ref["image_id"]]
        folder = tmp_path / "images" / "mscoco" / "images" / "train2014"
        assert (folder / image["file_name"]).is_file()
        assert re.fullmatch(r"COCO_train2014_\d{12}\.jpg", image["file_name"])
        ids = ref["ann_id"] if task == "multi" else [ref["ann_id"]]
        kinds = ref["category_id"] if task == "multi" else [ref["category_id"]]
        mask_hw = np.zeros(SIZE_HW, bool)
        for number, kind in zip(ids, kinds, strict=True):
            if number != -1:
                mask_hw |= masks[number]
                assert annotations[number]["category_id"] == kind
        assert ref.get("no_target", False) == (ids == [-1])
        for sentence in ref["sentences"]:
            assert sentence["sent"] == " ".join(sentence["tokens"])
            assert re.fullmatch(r"[a-z ]+", sentence["sent"])
            said[ref["image_id"], sentence["raw"]] = mask_hw
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
    assert len(said) == records
    for image_id in images:
        drawing = draw(compose(SEED + image_id - 1, split), SIZE_HW)
        expressions = express(drawing, seed=SEED + image_id - 1, tasks=(task,), per_task=8)
        for each in expressions:
            np.testing.assert_array_equal(
                said.pop((image_id, each.text)), mask_of(drawing, each.targets)
            )
    assert not said


def test_refs_are_pickled_as_python_2_wrote_them(tmp_path) -> None:
    write_dataset("refcoco", tmp_path, "val", 1, SIZE_HW, 0)
    assert (tmp_path / "refcoco" / "refs(unc).p").read_bytes()[:2] == b"\x80\x02"


def test_absent_things_have_no_annotation(tmp_path) -> None:
    write_dataset("grefcoco", tmp_path, "val", 12, SIZE_HW, 0)
    refs = json.loads((tmp_path / "grefcoco" / "grefs(unc).json").read_text())
    absent = [ref for ref in refs if ref["no_target"]]
    assert 0 < len(absent) < len(refs)
    assert all(ref["ann_id"] == ref["category_id"] == [-1] for ref in absent)
    assert all(-1 not in ref["ann_id"] for ref in refs if not ref["no_target"])
