"""Drawn scenes kept on disk as views and label maps, so that training never waits for a brush."""

from __future__ import annotations

import json
import multiprocessing
import signal
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..kernels.resize import resize_chw
from ..runtime.errors import InputError, UsageError
from ..runtime.replace import replacing
from ..runtime.spec import ViewSpec
from .losses import IGNORED
from .world.catalogue import CATEGORIES, COLORS, PATTERNS
from .world.compose import compose
from .world.draw import draw
from .world.expression import Expression
from .world.speak import express
from .world.truth import Drawing, part_label

MAX_OBJECTS = 9
CATEGORY_NAMES = tuple(CATEGORIES)
COLOR_NAMES = tuple(COLORS)
MAX_PARTS = max(len(category.parts) for category in CATEGORIES.values())
PART_CLASSES = 1 + len(CATEGORY_NAMES) * MAX_PARTS
"""Table, and every part of every category."""
COLOR_CLASSES = 1 + len(COLOR_NAMES)
"""Table, and every color."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRecipe:
    """Which scenes to draw and what to say about them."""

    split: str = "train"
    """"train", "val" or "test"."""
    scenes: int = 30000
    """How many scenes; their seeds count up from `first_seed`."""
    first_seed: int = 0
    """Seed of the first scene."""
    frame_hw: tuple[int, int] = (240, 320)
    """Height and width of the drawn frames; the views are scaled from these."""
    tasks: tuple[str, ...] = ("single", "part", "semantic")
    """Tasks of the phrases."""
    phrases_per_task: int = 4
    """Phrases of each task and scene, at most."""


@dataclass(frozen=True)
class Phrases:
    """All phrases of a cache, column by column."""

    texts: list[str]
    scene: np.ndarray
    """int64 (phrases,): index of the scene."""
    objects: np.ndarray
    """bool (phrases, 1 + MAX_OBJECTS): which values of the instance map are meant."""
    part: np.ndarray
    """uint8 (phrases,): value of the part map that is meant; 0 means whole objects."""
    task: np.ndarray
    """str (phrases,): task names."""

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Task -> int64 (n,), indices of its phrases; looked up once, batches draw from it."""
        return {str(task): np.flatnonzero(self.task == task) for task in np.unique(self.task)}


class SceneCache:
    """Scenes as memory-mapped arrays; index i is the same scene in each.

    Attributes:
        views: View name to uint8 (scenes, h, w, 3).
        instance_map: uint8 (scenes, h, w) at the first view's size; 0 is table.
        part_map: uint8 (scenes, h, w); 0 is table.
        things: uint8 (scenes, 1 + MAX_OBJECTS, 3): category, color and pattern of each value of the
            instance map, counted from 1; 0 is table or nothing.
        phrases: What is said about the scenes.
    """

    def __init__(self, folder: Path) -> None:
        """Open a cache that `draw_cache` wrote."""
        names = json.loads((folder / "cache.json").read_text())["views"]
        self.views = {name: np.load(folder / f"view_{name}.npy", mmap_mode="r") for name in names}
        self.instance_map = np.load(folder / "instance_map.npy", mmap_mode="r")
        self.part_map = np.load(folder / "part_map.npy", mmap_mode="r")
        self.things = np.load(folder / "things.npy")
        with np.load(folder / "phrases.npz") as columns:
            self.phrases = Phrases(
                (folder / "phrases.txt").read_text().splitlines(),
                *(columns[name] for name in ("scene", "objects", "part", "task")),
            )

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.instance_map)

    def phrase_masks(self, chosen: np.ndarray) -> np.ndarray:
        """Return the masks of the chosen phrases, int64 (phrases,), as bool (phrases, h, w)."""
        phrases, scene = self.phrases, self.phrases.scene[chosen]
        instances = self.instance_map[scene]
        rows = np.arange(len(chosen))[:, None, None]
        masks = phrases.objects[chosen][rows, instances]
        part = phrases.part[chosen][:, None, None]
        return masks & ((part == 0) | (self.part_map[scene] == part))

    def target_names(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what all targets of a phrase share: category and color.

        Args:
            chosen: int64 (phrases,), indices.

        Returns:
            Two int64 (phrases,), indices into CATEGORY_NAMES and COLOR_NAMES, IGNORED where a
            phrase has no target or its targets differ.
        """
        meant = self.phrases.objects[chosen][..., None]
        things = self.things[self.phrases.scene[chosen]][..., :2].astype(np.int64)
        least = np.where(meant, things, np.iinfo(np.int64).max).min(axis=1)
        most = np.where(meant, things, 0).max(axis=1)
        shared = np.where(least == most, most - 1, IGNORED)
        return shared[:, 0], shared[:, 1]

    def names(self, scenes: np.ndarray, grid_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Name what lies at the centre of each cell.

        Args:
            scenes: int64 (scenes,), indices.
            grid_hw: Rows and columns of cells.

        Returns:
            Part class in [0, PART_CLASSES) and color in [0, COLOR_CLASSES), both int64
            (scenes, rows, columns); 0 is table.
        """
        rows, columns = (
            _centers(source, target)
            for source, target in zip(self.instance_map.shape[1:], grid_hw, strict=True)
        )
        cells = (slice(None), rows[:, None], columns[None, :])
        instance = self.instance_map[scenes][cells]
        part = self.part_map[scenes][cells].astype(np.int64)
        thing = self.things[np.asarray(scenes)[:, None, None], instance].astype(np.int64)
        part_class = np.where(instance > 0, (thing[..., 0] - 1) * MAX_PARTS + part, 0)
        return part_class, np.where(instance > 0, thing[..., 1], 0)


def open_cache(folder: Path, recipe: CacheRecipe, views: tuple[ViewSpec, ...]) -> SceneCache:
    """Open the cache in `folder`, drawn first when there is none.

    Raises:
        InputError: The cache there is not of this recipe and these views.
        UsageError: See `draw_cache`.
    """
    if not folder.exists():
        draw_cache(folder, recipe, views)
    cache = SceneCache(folder)
    wanted = {view.name: (recipe.scenes, *view.size_hw, 3) for view in views}
    found = {name: view.shape for name, view in cache.views.items()}
    if wanted != found:
        raise InputError(
            f"the scenes in {folder} must be as many and as large as the recipe's {wanted}; "
            f"they are {found}; delete them or give another folder"
        )
    return cache


def draw_cache(folder: Path, recipe: CacheRecipe, views: tuple[ViewSpec, ...]) -> None:
    """Draw the scenes of `recipe` into `folder`, all or nothing, on every processor.

    Args:
        folder: Where the arrays go; an existing cache is replaced.
        recipe: Which scenes.
        views: How a frame becomes each model input; the first one's size is that of the label maps.

    Raises:
        UsageError: A padded view has another aspect than the frames, so that labels would not fit;
            or a phrase means different parts of its targets.
    """
    height, width = recipe.frame_hw
    for view in views:
        if view.fit == "pad" and view.size_hw[0] * width != view.size_hw[1] * height:
            raise UsageError(
                f"frames must have the aspect of the padded view {view.name!r}, {view.size_hw}; "
                f"got {recipe.frame_hw}; change the recipe's frame_hw"
            )
    with replacing(folder) as scratch:
        arrays = _arrays(scratch, recipe.scenes, views)
        phrases: list[tuple[int, Expression, int]] = []
        # An interrupt is for this process alone, which then ends the others.
        ignore_interrupt = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
        with multiprocessing.get_context("fork").Pool(initializer=ignore_interrupt) as pool:
            seeds = range(recipe.first_seed, recipe.first_seed + recipe.scenes)
            rows = pool.imap(partial(_row, recipe=recipe, views=views), seeds, chunksize=64)
            bar = tqdm(rows, "draw", recipe.scenes, unit="scene", disable=None, smoothing=0.05)
            for index, (values, said) in enumerate(bar):
                for array, value in zip(arrays, values, strict=True):
                    array[index] = value
                phrases.extend((index, expression, part) for expression, part in said)
        _write_phrases(scratch, phrases)
        names = [view.name for view in views]
        (scratch / "cache.json").write_text(json.dumps({"views": names}))


def _arrays(folder: Path, scenes: int, views: tuple[ViewSpec, ...]) -> list[np.ndarray]:
    shapes = {f"view_{view.name}": (*view.size_hw, 3) for view in views}
    shapes |= {"instance_map": views[0].size_hw, "part_map": views[0].size_hw}
    shapes |= {"things": (1 + MAX_OBJECTS, 3)}
    return [
        np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=(scenes, *shape)
        )
        for name, shape in shapes.items()
    ]


def _row(seed: int, *, recipe: CacheRecipe, views: tuple[ViewSpec, ...]) -> tuple[list, list]:
    drawing = draw(compose(seed, recipe.split), recipe.frame_hw)
    maps_hw = [drawing.instance_map_hw, drawing.part_map_hw]
    values = [_view(drawing, view) for view in views]
    values += [_nearest(map_hw, views[0].size_hw) for map_hw in maps_hw]
    values.append(_things(drawing))
    said = express(drawing, seed=seed, tasks=recipe.tasks, per_task=recipe.phrases_per_task)
    return values, [(expression, _part_value(drawing, expression)) for expression in said]


def _view(drawing: Drawing, view: ViewSpec) -> np.ndarray:
    resized = resize_chw(
        drawing.image_hwc,
        view.size_hw,
        interpolation=view.interpolation,
        is_antialiased=view.is_antialiased,
    )
    return resized.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _nearest(map_hw: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        _centers(source, target) for source, target in zip(map_hw.shape, size_hw, strict=True)
    )
    return map_hw[np.ix_(rows, columns)]


def _centers(source: int, target: int) -> np.ndarray:
    """Return which of `source` samples lies at the centre of each of `target` cells."""
    return ((np.arange(target) + 0.5) * source / target).astype(int)


def _things(drawing: Drawing) -> np.ndarray:
    things = np.zeros((1 + MAX_OBJECTS, 3), np.uint8)
    for index, thing in enumerate(drawing.scene.objects, start=1):
        things[index] = (
            1 + CATEGORY_NAMES.index(thing.category),
            1 + COLOR_NAMES.index(thing.color),
            1 + PATTERNS.index(thing.pattern),
        )
    return things


def _part_value(drawing: Drawing, expression: Expression) -> int:
    """Return the part map's value that all targets share; 0 for whole objects."""
    values = {
        0
        if target.part is None
        else part_label(drawing.scene.objects[target.object_index].category, target.part)
        for target in expression.targets
    } or {0}
    if len(values) > 1:
        raise UsageError(
            "a cached phrase must mean one part, or the whole, of all its targets; got "
            f"{expression.text!r}; leave the task {expression.task!r} out of the recipe"
        )
    return values.pop()


def _write_phrases(folder: Path, phrases: list[tuple[int, Expression, int]]) -> None:
    objects = np.zeros((len(phrases), 1 + MAX_OBJECTS), bool)
    for row, (_, expression, _) in enumerate(phrases):
        for target in expression.targets:
            objects[row, 1 + target.object_index] = True
    np.savez(
        folder / "phrases.npz",
        scene=np.array([scene for scene, _, _ in phrases]),
        objects=objects,
        part=np.array([part for _, _, part in phrases], np.uint8),
        task=np.array([expression.task for _, expression, _ in phrases]),
    )
    texts = [expression.text for _, expression, _ in phrases]
    (folder / "phrases.txt").write_text("\n".join(texts) + "\n")
