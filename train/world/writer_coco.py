"""COCO instances: every visible object and part with its exact mask, `instances_{split}.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from .pages import CocoBook, Page, save_image


def write_coco(folder: Path, split: str, pages: Iterable[Page]) -> int:
    """Write `images/{split}/*.jpg` and `annotations/instances_{split}.json`.

    Parts are annotations of their own, named "mug:handle" and tied to their object by `obj_ann_id`
    as in PACO-LVIS.

    Returns:
        The number of masks.
    """
    book = CocoBook()
    for page in pages:
        file_name = f"{page.image_id:012d}.jpg"
        save_image(folder / "images" / split / file_name, page.drawing.image_hwc)
        book.add(page, file_name)
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(book.as_json()))
    return len(book.annotations)
