"""What every annotation format needs: numbered pictures on disk and COCO records of their masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...kernels.boxes import boxes_xyxy_from_masks
from ...kernels.rle import encode
from .catalogue import CATEGORIES
from .compose import compose
from .draw import draw
from .expression import Expression
from .truth import Drawing, Target, mask_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One picture of a data set."""

    image_id: int
    """Its number, from 1."""
    drawing: Drawing
    """Picture and truth."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.drawing.instance_map_hw.shape
        return height, width


def draw_pages(split: str, count: int, size_hw: tuple[int, int], seed: int) -> Iterator[Page]:
    """Draw pictures; the first scene has `seed`, the next ones count up from it."""
    for index in range(count):
        drawing = draw(compose(seed + index, split), size_hw)
        yield Page(image_id=index + 1, drawing=drawing)


def save_image(path: Path, image_hwc: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as `.png` or `.jpg`, in a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(image_hwc, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())


def _category_names() -> tuple[str, ...]:
    wholes = list(CATEGORIES)
    return tuple(
        wholes + [f"{name}:{part.name}" for name in wholes for part in CATEGORIES[name].parts]
    )


CATEGORY_NAMES = _category_names()
"""COCO category i + 1: the objects, then their parts as PACO writes them, "mug:handle"."""


def category_name(drawing: Drawing, target: Target) -> str:
    """Return the name of a target in `CATEGORY_NAMES`."""
    category = drawing.scene.objects[target.object_index].category
    return f"{category}:{target.part}" if target.part else category


class CocoBook:
    """Images, categories and annotations as COCO numbers them."""

    def __init__(self) -> None:
        """Start an empty book."""
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, page: Page, file_name: str) -> dict[Target, int]:
        """Record a picture with all that shows in it; return each target's annotation id."""
        height, width = page.size_hw
        self.images.append(
            {"id": page.image_id, "file_name": file_name, "height": height, "width": width}
        )
        ids: dict[Target, int] = {}
        for target in visible_targets(page.drawing):
            record = mask_record(mask_of(page.drawing, (target,)))
            ids[target] = len(self.annotations) + 1
            self.annotations.append(
                {
                    "id": ids[target],
                    "image_id": page.image_id,
                    "category_id": CATEGORY_NAMES.index(category_name(page.drawing, target)) + 1,
                    "obj_ann_id": ids[Target(object_index=target.object_index, part=None)],
                    "iscrowd": 0,
                    **record,
                }
            )
        return ids

    def as_json(self) -> dict[str, Any]:
        """Return the whole as COCO's `instances_*.json` has it."""
        categories = [
            {"id": number, "name": name, "supercategory": name.split(":")[0]}
            for number, name in enumerate(CATEGORY_NAMES, start=1)
        ]
        return {
            "info": {"description": "saymask tabletop world"},
            "licenses": [],
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }


def visible_targets(drawing: Drawing) -> Iterator[Target]:
    """Yield every object and part with at least one visible pixel, each object before its parts."""
    for index, thing in enumerate(drawing.scene.objects):
        is_object = drawing.instance_map_hw == index + 1
        if not is_object.any():
            continue
        yield Target(object_index=index, part=None)
        labels = np.bincount(drawing.part_map_hw[is_object], minlength=256)
        for label, part in enumerate(CATEGORIES[thing.category].parts, start=1):
            if labels[label]:
                yield Target(object_index=index, part=part.name)


def mask_record(mask_hw: np.ndarray) -> dict[str, Any]:
    """Return area, bbox [x, y, w, h] and segmentation (compressed run lengths) of a bool mask."""
    left, top, right, bottom = boxes_xyxy_from_masks(mask_hw[None])[0].tolist()
    return {
        "area": int(np.count_nonzero(mask_hw)),
        "bbox": [left, top, right - left, bottom - top],
        "segmentation": encode(mask_hw),
    }


def by_targets(expressions: tuple[Expression, ...]) -> dict[tuple[Target, ...], list[Expression]]:
    """Gather the expressions that mean the same, in the order of their first."""
    gathered: dict[tuple[Target, ...], list[Expression]] = {}
    for expression in expressions:
        gathered.setdefault(expression.targets, []).append(expression)
    return gathered
