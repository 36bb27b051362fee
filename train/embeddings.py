"""What SAM's frozen image encoder makes of every scene, worked out once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..export.models.sam_visual import SamVisualModel
from ..runtime.spec import ViewSpec
from .cache import SceneCache
from .views import normalized

SCENES = 64
"""Scenes that are encoded at once."""


@torch.inference_mode()
def embed_scenes(
    visual_model: SamVisualModel, cache: SceneCache, view: ViewSpec, path: Path
) -> np.ndarray:
    """Encode every scene once, as the frozen image encoder gives the same answer each time.

    Args:
        visual_model: Its image encoder is what encodes.
        cache: Scenes.
        view: SAM's view.
        path: File for the embeddings, ending in ".npy"; one that is there is taken as it is.

    Returns:
        float16 (scenes, width, rows, columns), mapped from `path`.
    """
    if path.exists():
        return np.load(path, mmap_mode="r")
    spec = visual_model.prompt_encoder.spec
    shape = (len(cache), spec.width, *spec.grid_hw)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial")
    array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
    encoder = visual_model.image_encoder.eval()
    device = next(encoder.parameters()).device
    for first in range(0, len(cache), SCENES):
        batch = normalized(cache.views[view.name][first : first + SCENES], view)
        array[first : first + SCENES] = encoder(batch.to(device)).cpu().numpy()
    array.flush()
    unfinished.replace(path)
    return np.load(path, mmap_mode="r")
