"""MMR: questions with answers in words and one mask for each "{seg}", objects and parts alike."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .expression import Expression
from .pages import CATEGORY_NAMES, Page, category_name, mask_record, save_image
from .speak import express
from .truth import mask_of

_SPLIT_NAMES = {"train": "train", "val": "val", "test": "test_mixed"}
_QUESTIONS = 4


def write_mmr(folder: Path, split: str, pages: Iterable[Page]) -> int:
    """Write `MMR/MMR_{split}.json` and the images where jdg900/MMR's loader looks.

    The test split is called "test_mixed". Text answers leave out the full stop, which the loader
    adds.

    Returns:
        The number of questions.
    """
    records = []
    for page in pages:
        drawing, file_name = page.drawing, f"train2017/{page.image_id:012d}.jpg"
        said = express(drawing, seed=drawing.scene.seed, tasks=("implicit",), per_task=_QUESTIONS)
        if said:
            image = folder / "refer_seg" / "images" / "mscoco" / "images" / file_name
            save_image(image, drawing.image_hwc)
            records.append(_record(page, file_name, said))
    path = folder / "MMR" / f"MMR_{_SPLIT_NAMES[split]}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(records))
    return sum(len(record["questions"]) for record in records)


def _record(page: Page, file_name: str, said: tuple[Expression, ...]) -> dict[str, Any]:
    height, width = page.size_hw
    answers = [_answers(page, expression) for expression in said]
    names = {answer["category_name"] for each in answers for answer in each}
    return {
        "file_name": file_name,
        "height": height,
        "width": width,
        "image_id": page.image_id,
        "coco_url": "",
        "not_exhaustive_category_ids": [],
        "neg_category_ids": [],
        "questions": [expression.text for expression in said],
        "annotations": {name: _of_category(answers, name) for name in sorted(names)},
        "answers": answers,
        "text_answers": [expression.answer.removesuffix(".") for expression in said],
        "raw_answers": [expression.answer.replace("{seg} ", "") for expression in said],
    }


def _answers(page: Page, expression: Expression) -> list[dict[str, Any]]:
    records = []
    for target in expression.targets:
        name = category_name(page.drawing, target)
        number = CATEGORY_NAMES.index(name) + 1
        records.append(
            {
                **mask_record(mask_of(page.drawing, (target,))),
                "image_id": page.image_id,
                "category_name": name,
                "category_id": number,
                "sorted_category_id": number,
            }
        )
    return records


def _of_category(answers: list[list[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    """Return the masks of a category, each once."""
    found = []
    for answer in (answer for each in answers for answer in each):
        if answer["category_name"] == name and answer not in found:
            found.append(answer)
    return found
