"""Drawn scenes of every split, and a reader of phrases that shares no code with the speaker."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from saymask.train.world.catalogue import CATEGORIES, COLORS, SPLITS
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.scene import SceneObject
from saymask.train.world.sight import Seen, View
from saymask.train.world.truth import Drawing

SCENES = 150
SIZE_HW = (120, 160)
PATTERNS = {"striped": "striped", "stripes": "striped", "dotted": "dotted", "dots": "dotted"}
PATTERNS["plain"] = "plain"
SIZES = {"small": "small", "little": "small", "medium": "medium", "large": "large", "big": "large"}
NOUNS = {category.plural.split()[-1]: name for name, category in CATEGORIES.items()}
NOUNS |= {name: name for name in CATEGORIES}


@pytest.fixture(scope="session")
def drawings() -> dict[str, list[Drawing]]:
    return {
        split: [draw(compose(seed, split), SIZE_HW) for seed in range(SCENES)] for split in SPLITS
    }


@pytest.fixture(scope="session")
def fitting() -> Callable[[Drawing, str], set[int]]:
    """Return the visible objects that have every trait that some words name."""

    def read(drawing: Drawing, words: str) -> set[int]:
        wanted = []
        for word in re.findall(r"[a-z]+", words.lower()):
            wanted += [("color", word)] if word in COLORS else []
            wanted += [("pattern", PATTERNS[word])] if word in PATTERNS else []
            wanted += [("size", SIZES[word])] if word in SIZES else []
            wanted += [("category", NOUNS[word])] if word in NOUNS else []
        return {
            index
            for index, thing in enumerate(drawing.scene.objects)
            if (drawing.instance_map_hw == index + 1).any()
            and all(getattr(thing, trait) == value for trait, value in wanted)
        }

    return read


@pytest.fixture(scope="session")
def box() -> Callable[[Drawing, int], np.ndarray]:
    """Return left, top, right and bottom of an object's visible pixels, in shorter sides."""

    def measure(drawing: Drawing, index: int) -> np.ndarray:
        rows, columns = np.nonzero(drawing.instance_map_hw == index + 1)
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return np.array(edges) / min(drawing.instance_map_hw.shape)

    return measure


@pytest.fixture
def seen() -> Callable[..., Seen]:
    """Make an object as it is seen, by its box; everything else may be left out."""

    def make(index: int, box_xyxy: tuple, category: str = "mug", **thing: object) -> Seen:
        left, top, right, bottom = box_xyxy
        traits = {"color": "red", "pattern": "plain", "size": "medium", "supporter": None} | thing
        area = traits.pop("area", (right - left) * (bottom - top))
        is_clear = traits.pop("is_clear", True)
        parts = tuple(part.name for part in CATEGORIES[category].parts)
        return Seen(
            index=index,
            thing=SceneObject(
                category=category,
                center_xy=((left + right) / 2, (top + bottom) / 2),
                angle_deg=0.0,
                is_flipped=False,
                **traits,
            ),
            box_xyxy=box_xyxy,
            area=area,
            full_area=area,
            parts=parts,
            traces=parts,
            is_clear=is_clear,
        )

    return make


@pytest.fixture
def viewed() -> Callable[..., View]:
    """Make a view of objects that cover nothing, or what `covered` says."""

    def make(*seen: Seen, split: str = "train", covered: dict | None = None) -> View:
        count = max(one.index for one in seen) + 1
        areas = covered or {}
        return View(
            split=split,
            width=1.0,
            height=1.0,
            seen=seen,
            covered=tuple(
                tuple(areas.get((i, j), 0.0) for j in range(count)) for i in range(count)
            ),
        )

    return make
