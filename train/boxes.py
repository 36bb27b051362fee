"""Boxes of everything that a cached scene shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .cache import MAX_OBJECTS, MAX_PARTS, SceneCache

CHUNK = 500
"""Scenes measured at once."""


def scene_boxes(cache: SceneCache, path: Path) -> np.ndarray:
    """Measure the visible objects and parts of all scenes, once.

    Args:
        cache: Scenes.
        path: File for the boxes, ending in ".npy"; one that is there is taken as it is.

    Returns:
        float32 (scenes, 1 + MAX_OBJECTS, 1 + MAX_PARTS, 4), xyxy in [0, 1] of the view, by the
        values of the instance map and the part map; part 0 is the whole object. What is not to be
        seen has a box of zeros.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        chunks = [_measure(cache, first) for first in range(0, len(cache), CHUNK)]
        unfinished = path.with_suffix(".partial")
        with unfinished.open("wb") as file:
            np.save(file, np.concatenate(chunks))
        unfinished.replace(path)
    return np.load(path)


def _measure(cache: SceneCache, first: int) -> np.ndarray:
    instances = np.asarray(cache.instance_map[first : first + CHUNK])
    parts = np.asarray(cache.part_map[first : first + CHUNK])
    scene, y, x = np.nonzero(instances)
    instance, part = instances[scene, y, x], parts[scene, y, x]
    ends = np.zeros((len(instances), 1 + MAX_OBJECTS, 1 + MAX_PARTS, 2, 2), np.float32)
    for axis, (place, side) in enumerate(((x, instances.shape[2]), (y, instances.shape[1]))):
        seen = np.zeros((*ends.shape[:3], side), bool)
        seen[scene, instance, part, place] = True
        seen[:, :, 0] |= seen[:, :, 1:].any(axis=2)
        is_there = seen.any(axis=-1)
        ends[..., 0, axis] = seen.argmax(axis=-1) / side * is_there
        ends[..., 1, axis] = (side - seen[..., ::-1].argmax(axis=-1)) / side * is_there
    return ends.reshape(*ends.shape[:3], 4)
