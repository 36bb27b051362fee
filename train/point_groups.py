"""Groups of points that SAM draws the right mask from: what SAM4MLLM-PPG learns to write.

Source: SAM4MLLM (arXiv 2409.10542), section 4.1: random groups of points in the object's box are
shown to SAM, and those whose masks are best are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from ..export.models.point_prompts import PointPrompts
from ..runtime.systems.sam4mllm_text import to_pixels, to_thousandths
from .cache import SceneCache
from .losses import mask_iou
from .pretrain_sam import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, TOP_LEFT
from .requests import Thing, thing_mask

INSIDE, OUTSIDE = 2, 1
"""Points of a group on the object and off it, in this order."""
GROUP_LABELS = (FOREGROUND,) * INSIDE + (BACKGROUND,) * OUTSIDE
LEAST_PIXELS = 8
"""A thing with fewer on the object or off it in its box gets no group."""
CHUNK = 64
"""Scenes whose groups are one file."""

Groups = Mapping[tuple[int, Thing], np.ndarray]
"""Scene and thing -> int64 (kept, INSIDE + OUTSIDE, 2), points in thousandths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecipe:
    """How many groups SAM is shown."""

    scenes: int = 3000
    """Groups are chosen for the things of this many scenes."""
    tried: int = 64
    """Random groups of a thing."""
    kept: int = 16
    """Of these, the best that are kept."""
    seed: int = 0
    """Seeds the groups of scene s by (seed, s)."""


def open_groups(
    folder: Path,
    prompts: PointPrompts,
    cache: SceneCache,
    embeddings: np.ndarray,
    things: Sequence[Sequence[Thing]],
    boxes: np.ndarray,
    recipe: GroupRecipe,
) -> Groups:
    """Open the groups in `folder`, chosen first where they are lacking.

    Args:
        folder: A file for each `CHUNK` scenes; those that are there are taken as they are.
        prompts: SAM's decoder.
        cache: Scenes.
        embeddings: float16 (scenes, width, rows, columns), what SAM's encoder makes of them.
        things: What is pointed at in each of the first `recipe.scenes` scenes.
        boxes: What `scene_boxes` gave.
        recipe: How many groups SAM is shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[int, Thing], np.ndarray] = {}
    for first in tqdm(range(0, len(things), CHUNK), "group", unit="chunk", disable=None):
        path = folder / f"{first:06d}.npz"
        if not path.exists():
            found = {}
            for scene in range(first, min(first + CHUNK, len(things))):
                chosen = choose_groups(
                    prompts, cache, embeddings, scene, things[scene], boxes[scene], recipe
                )
                found |= {f"{scene} {value} {part}": a for (value, part), a in chosen.items()}
            _write(path, found)
        with np.load(path) as arrays:
            for name, array in arrays.items():
                scene, value, part = map(int, name.split())
                groups[scene, (value, part)] = array
    return groups


@torch.inference_mode()
def choose_groups(
    prompts: PointPrompts,
    cache: SceneCache,
    embeddings: np.ndarray,
    scene: int,
    things: Sequence[Thing],
    boxes: np.ndarray,
    recipe: GroupRecipe,
) -> dict[Thing, np.ndarray]:
    """Show SAM random groups for the things of one scene, all in one batch.

    Args:
        prompts: See `open_groups`, as for the arguments below.
        cache: Scenes.
        embeddings: What SAM's encoder makes of them.
        scene: Index of the scene.
        things: What is pointed at in it.
        boxes: float32 (1 + MAX_OBJECTS, 1 + MAX_PARTS, 4), those of the scene.
        recipe: How many groups SAM is shown.

    Returns:
        Thing -> int64 (kept, INSIDE + OUTSIDE, 2), thousandths, the best group first. A thing that
        fills its box, or that hardly shows, is left out.
    """
    rng = np.random.default_rng((recipe.seed, scene))
    size_hw = cache.instance_map.shape[1:]
    tried: dict[Thing, np.ndarray] = {}
    truths, corners = [], []
    for thing in dict.fromkeys(things):
        mask_hw, box = thing_mask(cache, scene, thing), to_thousandths(boxes[thing], (1, 1))
        groups = _random_groups(mask_hw, box, recipe.tried, rng)
        if groups is not None:
            tried[thing] = groups
            truths.append(torch.from_numpy(mask_hw))
            corners.append(box.reshape(1, 2, 2).repeat(recipe.tried, 0))
    if not tried:
        return {}
    points = np.concatenate([np.concatenate(corners), np.concatenate([*tried.values()])], axis=1)
    labels = torch.tensor((TOP_LEFT, BOTTOM_RIGHT, *GROUP_LABELS)).expand(len(points), -1)
    points_xy = torch.from_numpy(to_pixels(points, size_hw))
    embedding = torch.from_numpy(embeddings[scene][None].astype(np.float32))
    low, iou = prompts(embedding, points_xy, labels)
    best = low[torch.arange(len(low)), iou.argmax(1)]
    logits = functional.interpolate(best[:, None], size_hw, mode="bilinear")[:, 0]
    real = mask_iou(logits, torch.stack(truths).repeat_interleave(recipe.tried, 0))
    order = real.view(len(tried), -1).argsort(1, descending=True)[:, : recipe.kept].numpy()
    return {thing: groups[rank] for (thing, groups), rank in zip(tried.items(), order, strict=True)}


def _random_groups(
    mask_hw: np.ndarray, box_xyxy: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray | None:
    """Draw groups in a box in thousandths as int64 (count, points, 2); None where none fits."""
    left, top, right, bottom = np.rint(to_pixels(box_xyxy, mask_hw.shape)).astype(int)
    is_in_box = np.zeros_like(mask_hw)
    is_in_box[top:bottom, left:right] = True
    drawn = []
    for is_place, points in ((mask_hw & is_in_box, INSIDE), (is_in_box & ~mask_hw, OUTSIDE)):
        y, x = np.nonzero(is_place)
        if len(x) < LEAST_PIXELS:
            return None
        drawn.append(np.stack([x, y], axis=-1)[rng.integers(len(x), size=(count, points))])
    return to_thousandths(np.concatenate(drawn, axis=1) + 0.5, mask_hw.shape)


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    unfinished = path.with_suffix(".partial")
    with unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    unfinished.replace(path)
