from __future__ import annotations

import json
import re

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from saymask.train.world.compose import compose
from saymask.train.world.dialogue import converse
from saymask.train.world.draw import draw
from saymask.train.world.formats import write_dataset
from saymask.train.world.truth import mask_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"  # pycocotools under NumPy 2
)

SIZE_HW = (96, 128)
SEED = 80
MENTION = re.compile(r"\[(IMAGE256|MASK-ENCODE|BOX-ENCODE|MASK-DECODE):([^\]]+)\]")


def test_conversations_mention_the_worlds_masks(tmp_path) -> None:
    rounds = write_dataset("mrseg", tmp_path, "val", 6, SIZE_HW, SEED)
    entries = json.loads((tmp_path / "conversations_folder" / "mr_tabletop_val.json").read_text())
    masks = json.loads((tmp_path / "annotations_folder" / "tabletop_val.json").read_text())
    assert len(masks) == rounds
    for entry in entries:
        assert (entry["task"], entry["base"]) == ("segmentation", "[null]")
        said = entry["conversations"]
        assert [each["from"] for each in said] == ["human", "gpt"] * (len(said) // 2)
        ((_, image),) = MENTION.findall(said[0]["value"])
        assert (tmp_path / "images_folder" / image).is_file()
        number = int(re.search(r"(\d+)\.jpg", image).group(1))
        drawing = draw(compose(SEED + number - 1, "val"), SIZE_HW)
        turns = converse(drawing, seed=SEED + number - 1, rounds=6).turns
        for turn, human, gpt in zip(turns, said[::2], said[1::2], strict=True):
            assert MENTION.sub("", human["value"]).strip() == turn.expression.text
            ((verb, name),) = MENTION.findall(gpt["value"])
            assert verb == "MASK-DECODE"
            check(masks, image, name, drawing, turn.expression.targets)
            mentions = [each for each in MENTION.findall(human["value"]) if each[0] != "IMAGE256"]
            expected = ["MASK-ENCODE", "BOX-ENCODE"] * len(turn.refers_to)
            assert [verb for verb, _ in mentions] == expected
            for (_, name), reference in zip(mentions[::2], turn.expression.references, strict=True):
                check(masks, image, name, drawing, (reference,))


def check(masks: dict, image: str, name: str, drawing, targets: tuple) -> None:
    path, dataset, mask_id = name.split("|")
    assert (path, dataset) == (image, "tabletop")
    mask_hw = coco_mask.decode(masks[mask_id]["segmentation"]).astype(bool)
    np.testing.assert_array_equal(mask_hw, mask_of(drawing, targets))
