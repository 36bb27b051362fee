import os
import signal
import time
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest

from saymask.runtime.errors import InputError, UsageError
from saymask.train.cache import (
    CATEGORY_NAMES,
    COLOR_CLASSES,
    COLOR_NAMES,
    MAX_PARTS,
    PART_CLASSES,
    CacheRecipe,
    SceneCache,
    draw_cache,
    open_cache,
)
from saymask.train.losses import IGNORED
from saymask.train.world.catalogue import CATEGORIES
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.speak import express
from saymask.train.world.truth import mask_of


@pytest.fixture(scope="module")
def drawings(cache_recipe):
    seeds = range(cache_recipe.first_seed, cache_recipe.first_seed + cache_recipe.scenes)
    return [draw(compose(seed, cache_recipe.split), cache_recipe.frame_hw) for seed in seeds]


@pytest.fixture(scope="module")
def spoken(drawings, cache_recipe):
    """Scene index and expression of every phrase."""
    tasks, most = cache_recipe.tasks, cache_recipe.phrases_per_task
    return [
        (index, expression)
        for index, drawing in enumerate(drawings)
        for expression in express(drawing, seed=drawing.scene.seed, tasks=tasks, per_task=most)
    ]


def test_phrases_are_what_the_world_says(cache, spoken):
    assert len(cache) == 24
    assert cache.phrases.texts == [expression.text for _, expression in spoken]
    assert cache.phrases.scene.tolist() == [index for index, _ in spoken]
    assert cache.phrases.task.tolist() == [expression.task for _, expression in spoken]
    assert set(cache.phrases.task) == {"single", "part", "semantic"}


def test_masks_are_the_worlds_scaled_down(cache, drawings, spoken):
    masks = cache.phrase_masks(np.arange(len(spoken)))
    assert masks.dtype == bool
    assert masks.shape == (len(spoken), 120, 160)
    for mask, (index, expression) in zip(masks, spoken, strict=True):
        truth_hw = mask_of(drawings[index], expression.targets)
        np.testing.assert_array_equal(mask, truth_hw[1::2, 1::2])
    picked = np.array([5, 0, 5])
    np.testing.assert_array_equal(cache.phrase_masks(picked), masks[picked])


def test_cells_are_named_by_what_lies_at_their_centers(cache, drawings):
    scenes = np.array([3, 0, 17])
    parts, colors = cache.names(scenes, (15, 20))
    assert parts.dtype == colors.dtype == np.int64
    assert parts.shape == colors.shape == (3, 15, 20)
    for place, row, column in np.ndindex(parts.shape):
        drawing, center = drawings[scenes[place]], (16 * row + 9, 16 * column + 9)
        value, part = drawing.instance_map_hw[center], int(drawing.part_map_hw[center])
        if value == 0:
            assert (parts[place, row, column], colors[place, row, column]) == (0, 0)
            continue
        thing = drawing.scene.objects[value - 1]
        assert colors[place, row, column] == 1 + COLOR_NAMES.index(thing.color)
        group, rank = divmod(int(parts[place, row, column]) - 1, MAX_PARTS)
        assert CATEGORY_NAMES[group] == thing.category
        assert rank == part - 1 < len(CATEGORIES[thing.category].parts)
    assert parts.max() < PART_CLASSES
    assert colors.max() < COLOR_CLASSES


def test_targets_are_named_where_they_agree(cache, drawings, spoken):
    categories, colors = cache.target_names(np.arange(len(spoken)))
    assert categories.dtype == colors.dtype == np.int64
    for category, color, (index, expression) in zip(categories, colors, spoken, strict=True):
        things = [drawings[index].scene.objects[each.object_index] for each in expression.targets]
        names = {CATEGORY_NAMES.index(thing.category) for thing in things}
        assert category == (names.pop() if len(names) == 1 else IGNORED)
        names = {COLOR_NAMES.index(thing.color) for thing in things}
        assert color == (names.pop() if len(names) == 1 else IGNORED)
    assert IGNORED in colors
    assert IGNORED not in categories, "these tasks never mix categories"


def test_a_cache_that_is_there_is_opened(cache_folder, cache_recipe, mini_views):
    before = (cache_folder / "cache.json").stat().st_mtime_ns
    assert isinstance(open_cache(cache_folder, cache_recipe, mini_views), SceneCache)
    assert (cache_folder / "cache.json").stat().st_mtime_ns == before


def test_a_cache_of_another_recipe_is_refused(cache_folder, cache_recipe, mini_views):
    with pytest.raises(InputError, match="delete them or give another folder"):
        open_cache(cache_folder, replace(cache_recipe, scenes=25), mini_views)


def test_frames_must_have_the_aspect_of_a_padded_view(tmp_path, cache_recipe, mini_views):
    with pytest.raises(UsageError, match=r"aspect of the padded view 'sam'.*got \(240, 240\)"):
        draw_cache(tmp_path / "new", replace(cache_recipe, frame_hw=(240, 240)), mini_views)


def test_a_drawing_that_fails_leaves_nothing(tmp_path, mini_views):
    recipe = CacheRecipe(scenes=200, frame_hw=(120, 160), tasks=("implicit",))
    with pytest.raises(UsageError, match="must mean one part, or the whole.*'implicit'"):
        draw_cache(tmp_path / "scenes", recipe, mini_views)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_drawing_leaves_no_cache_and_the_next_one_cleans_up(tmp_path, mini_views):
    folder = tmp_path / "scenes"
    endless = CacheRecipe(scenes=2000, frame_hw=(120, 160))
    child = get_context("fork").Process(target=draw_cache, args=(folder, endless, mini_views))
    child.start()
    while not list(tmp_path.glob(".scenes.*.partial/things.npy")):
        time.sleep(0.01)
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not folder.exists()
    few = CacheRecipe(scenes=2, frame_hw=(120, 160))
    assert len(open_cache(folder, few, mini_views)) == 2
    assert list(tmp_path.iterdir()) == [folder]
