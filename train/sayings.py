"""What is said about cached scenes beside the cache's phrases: groups, and questions with words."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .cache import CacheRecipe
from .world.compose import compose
from .world.draw import draw
from .world.speak import express

GROUPS, QUESTIONS = "multi", "vqa"
"""Tasks whose expressions a cache does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saying:
    """One expression about one scene."""

    scene: int
    """Index of the scene."""
    task: str
    """GROUPS or QUESTIONS."""
    text: str
    """What the user says."""
    objects: tuple[int, ...]
    """Values of the instance map that are meant; empty where nothing is, or words answer."""
    answer: str
    """What words answer; empty for groups."""


def open_sayings(path: Path, recipe: CacheRecipe, *, scenes: int, per_task: int) -> list[Saying]:
    """Open the sayings in a file, written first when there is none.

    Args:
        path: A file with a line of JSON for each saying; one that is there is taken as it is.
        recipe: The cache's.
        scenes: Speak of this many of the recipe's scenes, the first ones.
        per_task: Sayings of each task and scene, at most.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".partial")
        speak = partial(_speak, recipe=recipe, per_task=per_task)
        with multiprocessing.get_context("fork").Pool() as pool, unfinished.open("w") as file:
            spoken = pool.imap(speak, range(scenes), chunksize=64)
            for said in tqdm(spoken, "speak", scenes, unit="scene", disable=None):
                file.writelines(f"{json.dumps(one)}\n" for one in said)
        unfinished.replace(path)
    lines = path.read_text().splitlines()
    return [Saying(**(one | {"objects": tuple(one["objects"])})) for one in map(json.loads, lines)]


def _speak(scene: int, *, recipe: CacheRecipe, per_task: int) -> list[dict]:
    seed = recipe.first_seed + scene
    drawing = draw(compose(seed, recipe.split), recipe.frame_hw)
    said = express(drawing, seed=seed, tasks=(GROUPS, QUESTIONS), per_task=per_task)
    return [
        {
            "scene": scene,
            "task": one.task,
            "text": one.text,
            "objects": [1 + target.object_index for target in one.targets],
            "answer": one.answer,
        }
        for one in said
    ]
