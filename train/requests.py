"""What a language model is asked about cached scenes: phrases that point, and questions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .cache import SceneCache
from .sayings import Saying

Thing = tuple[int, int]
"""What is pointed at: values of the instance map and the part map, 0 for the whole object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Words about one scene and what they mean."""

    task: str
    """Task of the world, for example "single", "multi" or "vqa"."""
    text: str
    """What the user says."""
    things: tuple[Thing, ...]
    """What is meant; empty where nothing is, or words answer."""
    answer: str
    """What words answer; empty where masks do."""


def requests_by_scene(
    cache: SceneCache, sayings: Sequence[Saying], *, tasks: Collection[str], scenes: int
) -> list[list[Request]]:
    """Gather what is asked about each scene.

    Args:
        cache: Its phrases point at one object or part each, those of the tasks that are taken.
        sayings: What else is said about its scenes.
        tasks: Which tasks are taken.
        scenes: The first ones are taken.

    Returns:
        A list for each scene.
    """
    gathered: list[list[Request]] = [[] for _ in range(min(scenes, len(cache)))]
    phrases = cache.phrases
    columns = (phrases.scene, phrases.task, phrases.texts, phrases.objects, phrases.part)
    for scene, task, text, objects, part in zip(*columns, strict=True):
        if task in tasks and scene < len(gathered):
            things = tuple((int(value), int(part)) for value in np.flatnonzero(objects))
            request = Request(task=str(task), text=text, things=things, answer="")
            gathered[scene].append(request)
    for saying in sayings:
        if saying.task in tasks and saying.scene < len(gathered):
            things = tuple((value, 0) for value in saying.objects)
            request = Request(
                task=saying.task, text=saying.text, things=things, answer=saying.answer
            )
            gathered[saying.scene].append(request)
    return gathered


def thing_mask(cache: SceneCache, scene: int, thing: Thing) -> np.ndarray:
    """Return the visible pixels of a thing as bool (h, w), the size of the cache's label maps."""
    value, part = thing
    mask_hw = cache.instance_map[scene] == value
    return mask_hw & (cache.part_map[scene] == part) if part else mask_hw
