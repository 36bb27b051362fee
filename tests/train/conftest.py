"""A few drawn scenes in a cache, and a whole training of two steps a phase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from saymask.runtime.spec import ViewSpec
from saymask.train.boxes import scene_boxes
from saymask.train.byte_pairs import learn_byte_pairs
from saymask.train.cache import CacheRecipe, SceneCache, draw_cache
from saymask.train.packing import Tokens
from saymask.train.sayings import Saying, open_sayings

if TYPE_CHECKING:
    from saymask.train.systems.evf_sam import EvfSamRecipe


@pytest.fixture(scope="session")
def mini_views() -> tuple[ViewSpec, ...]:
    """How the miniature sees a frame: SAM's view, then BEiT-3's."""
    from saymask.export.models.evf_sam import EVF_SAM_SPECS
    from saymask.export.systems.evf_sam import views

    return views(EVF_SAM_SPECS["mini"])


@pytest.fixture(scope="session")
def cache_recipe() -> CacheRecipe:
    return CacheRecipe(scenes=24, first_seed=7)


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory, cache_recipe, mini_views) -> Path:
    """Folder of a cache; read it, don't change it."""
    folder = tmp_path_factory.mktemp("cache") / "scenes"
    draw_cache(folder, cache_recipe, mini_views)
    return folder


@pytest.fixture(scope="session")
def cache(cache_folder) -> SceneCache:
    return SceneCache(cache_folder)


@pytest.fixture(scope="session")
def boxes(cache, tmp_path_factory) -> np.ndarray:
    """Boxes of what `cache` shows."""
    return scene_boxes(cache, tmp_path_factory.mktemp("boxes") / "boxes.npy")


@pytest.fixture(scope="session")
def sayings(cache_recipe, tmp_path_factory) -> list[Saying]:
    """What else is said about the scenes of `cache`."""
    path = tmp_path_factory.mktemp("sayings") / "sayings.jsonl"
    return open_sayings(path, cache_recipe, scenes=cache_recipe.scenes, per_task=4)


@pytest.fixture(scope="session")
def tokens(cache, sayings, tmp_path_factory) -> Tokens:
    """A vocabulary for what is said about `cache`."""
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    texts = [*cache.phrases.texts, *(one.text for one in sayings), "Yes", "No"]
    path.write_text(learn_byte_pairs(texts, rows=2048))
    return Tokens(path)


@pytest.fixture(scope="session")
def brief_recipe() -> EvfSamRecipe:
    """Two steps of each phase on a few scenes, uncompiled and in FP32 on the CPU."""
    from saymask.train.systems.evf_sam import RECIPES, scaled

    small = scaled(RECIPES["miniature"], 0.001)
    loops = {
        name: replace(loop, steps=2, warmup_steps=0, mixed_precision="no", is_on_cpu=True)
        for name, loop in (("sam", small.sam), ("beit3", small.beit3), ("joint", small.joint))
    }
    return replace(
        small,
        scenes=replace(small.scenes, scenes=32, frame_hw=(120, 160)),
        sam_images=2,
        sam_prompts=2,
        beit3_phrases=16,
        joint_phrases=4,
        is_compiled=False,
        **loops,
    )


@pytest.fixture(scope="session")
def few_samples() -> Iterator[None]:
    """Two pictures instead of 48 beside every checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saymask.train.samples.PICTURES", 2)
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory, brief_recipe, few_samples) -> Path:
    """Folder of a finished training by `brief_recipe`; read it, don't change it."""
    from saymask.train.systems.evf_sam import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    train(brief_recipe, folder)
    return folder
