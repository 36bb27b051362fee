"""RefCOCO and gRefCOCO: phrases that point at one annotation, or at any number of them."""

from __future__ import annotations

import json
import pickle
import string
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

from .expression import Expression
from .pages import CATEGORY_NAMES, CocoBook, Page, by_targets, category_name, save_image
from .speak import express
from .truth import Drawing, Target

_SPLIT_NAMES = {"train": "train", "val": "val", "test": "testA"}
_PICKLE_PROTOCOL = 2
"""The protocol of the published `refs(unc).p`, which Python 2 wrote."""
_NO_TARGET = -1
_PHRASES = 8
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def write_refcoco(folder: Path, split: str, pages: Iterable[Page]) -> int:
    """Write `refcoco/refs(unc).p`, `refcoco/instances.json` and the images where REFER looks.

    The folder is what lichengunc/refer calls `data_root`. A segmentation is a list of one run
    length, the form that its loader accepts beside polygons and that keeps holes.

    Returns:
        The number of phrases.
    """
    book, refs = _record_pages(folder, split, pages, "single")
    for ref in refs:
        (ref["ann_id"],), (ref["category_id"],) = ref["ann_id"], ref["category_id"]
    _save_book(folder / "refcoco", book)
    path = folder / "refcoco" / "refs(unc).p"
    path.write_bytes(pickle.dumps(refs, _PICKLE_PROTOCOL))
    return _phrase_count(refs)


def write_grefcoco(folder: Path, split: str, pages: Iterable[Page]) -> int:
    """Write `grefcoco/grefs(unc).json`, `grefcoco/instances.json` and the images.

    `ann_id` and `category_id` are lists; [-1] means that nothing in the image is meant.

    Returns:
        The number of phrases.
    """
    book, refs = _record_pages(folder, split, pages, "multi")
    for ref in refs:
        ref["no_target"] = not ref["ann_id"]
        ref["ann_id"] = ref["ann_id"] or [_NO_TARGET]
        ref["category_id"] = ref["category_id"] or [_NO_TARGET]
    _save_book(folder / "grefcoco", book)
    (folder / "grefcoco" / "grefs(unc).json").write_text(json.dumps(refs))
    return _phrase_count(refs)


def _record_pages(
    folder: Path, split: str, pages: Iterable[Page], task: str
) -> tuple[CocoBook, list[dict[str, Any]]]:
    """Write the images; return their annotations and one ref for each meaning of the phrases."""
    book, refs, sentence_ids = CocoBook(), [], count(1)
    images = folder / "images" / "mscoco" / "images" / "train2014"
    for page in pages:
        drawing, file_name = page.drawing, f"COCO_train2014_{page.image_id:012d}.jpg"
        save_image(images / file_name, drawing.image_hwc)
        ids = book.add(page, file_name)
        said = express(drawing, seed=drawing.scene.seed, tasks=(task,), per_task=_PHRASES)
        for targets, expressions in by_targets(said).items():
            sentences = [_sentence(next(sentence_ids), each) for each in expressions]
            refs.append(
                {
                    "ref_id": len(refs) + 1,
                    "ann_id": [ids[target] for target in targets],
                    "category_id": [_category_id(drawing, target) for target in targets],
                    "image_id": page.image_id,
                    "file_name": file_name,
                    "split": _SPLIT_NAMES[split],
                    "sentences": sentences,
                    "sent_ids": [sentence["sent_id"] for sentence in sentences],
                }
            )
    return book, refs


def _category_id(drawing: Drawing, target: Target) -> int:
    return CATEGORY_NAMES.index(category_name(drawing, target)) + 1


def _sentence(sent_id: int, expression: Expression) -> dict[str, Any]:
    """Write a phrase as given, and lower-cased without punctuation."""
    words = expression.text.lower().translate(_WITHOUT_PUNCTUATION).split()
    return {
        "tokens": words,
        "raw": expression.text,
        "sent_id": sent_id,
        "sent": " ".join(words),
    }


def _save_book(folder: Path, book: CocoBook) -> None:
    """Write `instances.json` with each segmentation as a list of one run length."""
    instances = book.as_json()
    for annotation in instances["annotations"]:
        annotation["segmentation"] = [annotation["segmentation"]]
    folder.mkdir()
    (folder / "instances.json").write_text(json.dumps(instances))


def _phrase_count(refs: list[dict[str, Any]]) -> int:
    return sum(len(ref["sentences"]) for ref in refs)
