"""SAM's half before the words: masks from points and boxes, as the original was trained.

Source: Segment Anything (arXiv 2304.02643), section 3, without its ambiguity tokens: a point means
the whole object, a box may also mean a part. Two linear heads on the image embedding name category,
part and color of every cell; they stand for the ImageNet classes the original backbone starts from.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..export.models.sam_visual import SamVisualModel
from ..runtime.spec import ViewSpec
from .cache import COLOR_CLASSES, PART_CLASSES, SceneCache
from .loop import LoopRecipe, fit
from .losses import mask_bce, mask_dice, mask_iou
from .views import normalized

POINTS = 4
"""Point slots of a prompt: up to three points, or a box's two corners; the rest is "no point"."""
NO_POINT, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
IOU_WEIGHT = 0.2
"""Weight of the predicted IoU's error."""
NAMES_WEIGHT = 0.5
"""Weight of the cells' names."""


class SamPretraining(nn.Module):
    """The network with the heads it needs only now."""

    def __init__(self, visual_model: SamVisualModel, width: int) -> None:
        """Wrap `visual_model`, whose image embedding has `width` channels."""
        super().__init__()
        self.visual_model = visual_model
        self.part_head = nn.Conv2d(width, PART_CLASSES, 1)
        self.color_head = nn.Conv2d(width, COLOR_CLASSES, 1)

    def forward(
        self, image: Tensor, points_xy: Tensor, labels: Tensor, truth: Tensor, parts: Tensor,
        colors: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """Return the loss and its figures.

        Args:
            image: float (images, 3, H, W).
            points_xy: float (images x prompts, POINTS, 2) in pixels of the view.
            labels: int64 (images x prompts, POINTS).
            truth: bool (images x prompts, H, W).
            parts: int64 (images, rows, columns), 0 for table.
            colors: int64 (images, rows, columns), 0 for table.
        """
        embedding = self.visual_model.image_encoder(image)
        prompts = len(points_xy) // len(image)
        sparse = self.visual_model.prompt_encoder.points(points_xy, labels)
        low, iou = self.visual_model.decode((embedding.repeat_interleave(prompts, 0),), sparse)
        logits = functional.interpolate(low.float(), truth.shape[-2:], mode="bilinear")[:, 0]
        real_iou = mask_iou(logits.detach(), truth)
        masks = mask_bce(logits, truth.float()) + mask_dice(logits, truth.float())
        quality = functional.mse_loss(iou[:, 0].float(), real_iou)
        names = functional.cross_entropy(self.part_head(embedding).float(), parts)
        names = names + functional.cross_entropy(self.color_head(embedding).float(), colors)
        loss = masks + IOU_WEIGHT * quality + NAMES_WEIGHT * names
        images = torch.tensor(float(len(image)))
        return loss, {"gIoU": real_iou.mean(), "names": names.detach(), "images": images}


def train_sam(
    visual_model: SamVisualModel,
    cache: SceneCache,
    view: ViewSpec,
    recipe: LoopRecipe,
    folder: Path,
    *,
    scenes: int,
    images: int,
    prompts: int,
) -> None:
    """Train a SAM on points and boxes; state and log go to `folder`, see `loop.fit`.

    Args:
        visual_model: What learns.
        cache: Scenes to draw from.
        view: SAM's view.
        recipe: How long and how fast.
        folder: Where state and log go.
        scenes: Draw from this many of the cache's scenes.
        images: Scenes in a batch.
        prompts: Prompts of each scene.
    """
    spec = visual_model.prompt_encoder.spec
    # torch leaves this overload out of its stubs.
    visual_model.image_encoder.to(memory_format=torch.channels_last)  # pyright: ignore
    draw = partial(
        draw_prompts,
        cache,
        view,
        scenes=scenes,
        images=images,
        prompts=prompts,
        grid_hw=spec.grid_hw,
    )
    fit(SamPretraining(visual_model, spec.width), draw, recipe, folder)


def draw_prompts(
    cache: SceneCache,
    view: ViewSpec,
    rng: np.random.Generator,
    *,
    scenes: int,
    images: int,
    prompts: int,
    grid_hw: tuple[int, int],
) -> dict[str, Tensor]:
    """Draw scenes with points and boxes.

    Args:
        cache: Scenes to draw from.
        view: SAM's view.
        rng: Source of every choice.
        scenes: Draw from this many of the cache's scenes.
        images: Scenes in the batch.
        prompts: Prompts of each scene.
        grid_hw: Rows and columns of the image embedding.

    Returns:
        The arguments of `SamPretraining.forward` by name.
    """
    chosen = rng.integers(min(scenes, len(cache)), size=images)
    instances, parts = cache.instance_map[chosen], cache.part_map[chosen]
    rows = [
        _prompt(instances[index], parts[index], rng)
        for index in range(images)
        for _ in range(prompts)
    ]
    points_xy, labels, truth = (np.stack(column) for column in zip(*rows, strict=True))
    part_cells, color_cells = cache.names(chosen, grid_hw)
    return {
        "image": normalized(cache.views[view.name][chosen], view),
        "points_xy": torch.from_numpy(points_xy),
        "labels": torch.from_numpy(labels),
        "truth": torch.from_numpy(truth),
        "parts": torch.from_numpy(part_cells),
        "colors": torch.from_numpy(color_cells),
    }


def _prompt(
    instances_hw: np.ndarray, parts_hw: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points (POINTS, 2), their labels (POINTS,) and the bool (H, W) mask they ask for."""
    values = np.unique(instances_hw)
    truth_hw = instances_hw == rng.choice(values[values > 0])
    is_box = rng.random() < 0.5
    if is_box and rng.random() < 0.4:
        truth_hw = truth_hw & (parts_hw == rng.choice(parts_hw[truth_hw]))
    points_xy = np.zeros((POINTS, 2), np.float32)
    labels = np.full(POINTS, NO_POINT, np.int64)
    if is_box:
        points_xy[:2], labels[:2] = _box(truth_hw, rng), (TOP_LEFT, BOTTOM_RIGHT)
        return points_xy, labels, truth_hw
    for slot in range(rng.integers(1, 4)):
        is_inside = slot == 0 or rng.random() < 0.6
        points_xy[slot] = _pixel(truth_hw == is_inside, rng)
        labels[slot] = FOREGROUND if is_inside else BACKGROUND
    return points_xy, labels, truth_hw


def _box(truth_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return two corners around the mask, jittered by a tenth of its sides (SAM, appendix A)."""
    y, x = np.nonzero(truth_hw)
    corners = np.array([[x.min(), y.min()], [x.max(), y.max()]], np.float32)
    jitter = rng.normal(0, 0.1, (2, 2)) * (corners[1] - corners[0])
    return corners + np.clip(jitter, -20, 20).astype(np.float32)


def _pixel(mask_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the x and y of one pixel inside the mask."""
    flat = np.flatnonzero(mask_hw)
    y, x = divmod(int(rng.choice(flat)), mask_hw.shape[1])
    return np.array([x, y], np.float32)
