"""A few drawn scenes in a cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from saymask.runtime.spec import ViewSpec
from saymask.train.cache import CacheRecipe, SceneCache, draw_cache


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
