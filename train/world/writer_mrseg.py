"""MRSeg: conversations in SegLLM's own language, with the masks they mention in a file by id."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .dialogue import converse
from .expression import Dialogue
from .pages import Page, mask_record, save_image
from .truth import mask_of

_ROUNDS = 6
_DATASET = "tabletop"


def write_mrseg(folder: Path, split: str, pages: Iterable[Page]) -> int:
    """Write `conversations_folder/`, `annotations_folder/` and `images_folder/`.

    A mask is named `[MASK-DECODE:image|dataset|mask_id]`; its record is found by that id in
    `annotations_folder/tabletop_{split}.json`.

    Returns:
        The number of rounds.
    """
    conversations, masks = [], {}
    for page in pages:
        drawing, image = page.drawing, f"{_DATASET}/{split}/{page.image_id:012d}.jpg"
        dialogue = converse(drawing, seed=drawing.scene.seed, rounds=_ROUNDS)
        ids = [f"{page.image_id}_{number}" for number in range(1, len(dialogue.turns) + 1)]
        if not ids:
            continue
        save_image(folder / "images_folder" / image, drawing.image_hwc)
        conversations.append(_conversation(image, dialogue, ids))
        for mask_id, turn in zip(ids, dialogue.turns, strict=True):
            masks[mask_id] = mask_record(mask_of(drawing, turn.expression.targets))
    _save(folder / "conversations_folder" / f"mr_{_DATASET}_{split}.json", conversations)
    _save(folder / "annotations_folder" / f"{_DATASET}_{split}.json", masks)
    return len(masks)


def _conversation(image: str, dialogue: Dialogue, ids: list[str]) -> dict[str, Any]:
    said = []
    for number, turn in enumerate(dialogue.turns):
        before = [f"{image}|{_DATASET}|{ids[round_ - 1]}" for round_ in turn.refers_to]
        seen = "".join(f"[MASK-ENCODE:{name}][BOX-ENCODE:{name}]" for name in before)
        opening = f"[IMAGE256:{image}] " if number == 0 else seen
        decode = f"[MASK-DECODE:{image}|{_DATASET}|{ids[number]}]"
        said.append({"from": "human", "value": opening + turn.expression.text})
        said.append({"from": "gpt", "value": decode})
    return {"task": "segmentation", "base": "[null]", "conversations": said}


def _save(path: Path, value: object) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps(value))
