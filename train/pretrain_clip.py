"""The vision tower before the words: each patch says what it shows and which box that fills.

CLIP (arXiv 2103.00020) learns from 400 million captions, and language models that see start from
that. A miniature has a small world whose truth is known: its patches learn to carry the category,
part, color and pattern under them and the boxes of that object and part, as the very waves that
number tokens start from, so that reading a box off a patch becomes a lookup.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..export.models.clip import ClipVisionSpec, ClipVisionTower
from ..runtime.spec import ViewSpec
from .cache import COLOR_CLASSES, MAX_PARTS, PART_CLASSES, SceneCache
from .numbers import grid_waves, number_waves, soft_cross_entropy
from .views import normalized
from .world.catalogue import PATTERNS

POSITION_SIZE = 0.5
"""Amplitude of the first patch positions, about as large as the first patch embeddings."""
NUMBER_STEP = 10
"""Thousandths between two of the numbers that a box's edge is scored against."""
WAVE_WIDTH = 64
"""Channels of an edge's waves."""
BOX_WEIGHT = 2.0
"""Weight of the boxes' error."""


class SeeingPatches(nn.Module):
    """The vision tower with the heads it needs only in training."""

    waves: Tensor
    """float (classes, WAVE_WIDTH): what the boxes' numbers sound like."""

    def __init__(self, tower: ClipVisionTower, width: int, *, is_compiled: bool) -> None:
        """Wrap `tower` of `width` channels, compiled by torch where that is worth its minute."""
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(width)
        self.name_heads = nn.ModuleList(
            nn.Linear(width, classes)
            for classes in (PART_CLASSES, COLOR_CLASSES, len(PATTERNS) + 1)
        )
        self.box_head = nn.Linear(width, 8 * WAVE_WIDTH)
        waves = number_waves(WAVE_WIDTH)[::NUMBER_STEP]
        self.register_buffer("waves", waves, persistent=False)
        self._features = torch.compile(tower.features) if is_compiled else tower.features

    def loss(
        self, patches: Tensor, names: Tensor, boxes: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a tower's features, and its figures.

        Args:
            patches: float (images, patches, width).
            names: int64 (images, patches, 3), part class, color and pattern; 0 for table.
            boxes: float (images, patches, 8), the object's box and its part's, xyxy in [0, 1].
        """
        patches = self.norm(patches).flatten(0, 1)
        of_heads = zip(self.name_heads, names.flatten(0, 1).T, strict=True)
        named = torch.stack([
            functional.cross_entropy(head(patches).float(), labels) for head, labels in of_heads
        ]).sum()  # fmt: skip
        is_thing = names[..., 0].flatten() > 0
        waves = self.box_head(patches[is_thing]).float().unflatten(-1, (8, WAVE_WIDTH))
        logits = (waves @ self.waves.T).flatten(0, 1)
        edges = 1000 * boxes.flatten(0, 1)[is_thing].flatten()
        placed = soft_cross_entropy(logits, edges, step=NUMBER_STEP).mean()
        error = (logits.detach().argmax(-1) * NUMBER_STEP - edges).abs().mean()
        figures = {"names": named.detach(), "boxes": placed.detach(), "edge_error": error}
        return named + BOX_WEIGHT * placed, figures

    def forward(
        self, image: Tensor, names: Tensor, boxes: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its figures.

        Args:
            image: float (images, 3, H, W).
            names: As in `loss`.
            boxes: As in `loss`.
        """
        loss, figures = self.loss(self._features(image), names, boxes)
        return loss, figures | {"images": torch.tensor(float(len(image)))}


@torch.no_grad()
def start_positions(tower: ClipVisionTower, spec: ClipVisionSpec) -> None:
    """Start the positions as sines and cosines of row and column, near for near patches."""
    table = tower.vision_model.embeddings.position_embedding.weight
    table[0] = 0
    table[1:] = POSITION_SIZE * grid_waves(spec.grid_hw, spec.width)


def patch_truth(
    cache: SceneCache, boxes: np.ndarray, scenes: np.ndarray, grid_hw: tuple[int, int]
) -> dict[str, Tensor]:
    """Look up what lies at the centre of each patch.

    Args:
        cache: Scenes.
        boxes: What `scene_boxes` gave.
        scenes: int64 (images,), indices.
        grid_hw: Rows and columns of patches.

    Returns:
        "names" and "boxes" of `SeeingPatches.loss`.
    """
    rows = np.asarray(scenes)[:, None]
    instance, part = (
        _at_centers(maps[scenes], grid_hw) for maps in (cache.instance_map, cache.part_map)
    )
    category, color, pattern = np.moveaxis(cache.things[rows, instance].astype(np.int64), -1, 0)
    part_class = np.where(instance > 0, (category - 1) * MAX_PARTS + part, 0)
    both = [boxes[rows, instance, 0], boxes[rows, instance, part]]
    return {
        "names": torch.from_numpy(np.stack([part_class, color, pattern], axis=-1)),
        "boxes": torch.from_numpy(np.concatenate(both, axis=-1)),
    }


def _at_centers(maps_nhw: np.ndarray, grid_hw: tuple[int, int]) -> np.ndarray:
    """Return what lies at the centre of each patch, (n, patches)."""
    rows, columns = (
        ((np.arange(cells) + 0.5) * side / cells).astype(int)
        for side, cells in zip(maps_nhw.shape[1:], grid_hw, strict=True)
    )
    return maps_nhw[:, rows[:, None], columns].reshape(len(maps_nhw), -1)


def draw_patches(
    cache: SceneCache, boxes: np.ndarray, view: ViewSpec, rng: np.random.Generator, *,
    scenes: int, images: int, grid_hw: tuple[int, int],
) -> dict[str, Tensor]:  # fmt: skip
    """Draw scenes with what their patches show.

    Args:
        cache: Scenes to draw from.
        boxes: What `scene_boxes` gave.
        view: The tower's view.
        rng: Source of every choice.
        scenes: Draw from this many of the cache's scenes.
        images: Scenes in the batch.
        grid_hw: Rows and columns of patches.

    Returns:
        The arguments of `SeeingPatches.forward` by name.
    """
    chosen = rng.integers(min(scenes, len(cache)), size=images)
    image = normalized(cache.views[view.name][chosen], view)
    return {"image": image} | patch_truth(cache, boxes, chosen, grid_hw)
