"""SAM's mask decoder tuned to the prompts that words give: a box and points, all a little wrong.

Source: SAM4MLLM (arXiv 2409.10542), section 4.1, tunes the mask decoder alone. The three ambiguous
masks learn by their lowest loss, as in Segment Anything (arXiv 2304.02643), section 3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..export.models.point_prompts import PointPrompts
from ..export.models.sam import MASK_TOKENS
from ..export.models.sam_visual import SamVisualModel
from ..kernels.boxes import boxes_xyxy_from_masks
from .cache import SceneCache
from .losses import mask_iou, mask_losses
from .points import is_inside
from .pretrain_sam import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, IOU_WEIGHT, NO_POINT, TOP_LEFT

GRID = 5
"""Rows and columns of points that SAM4MLLM asks about."""
MOST_POINTS = (0, 3, 15, GRID * GRID)
"""A batch has prompts of up to one of these many points: PPG's three, the released code's 15."""
BOX_SLIP = 0.15
"""Most standard deviation of a box's corners, as a share of its sides."""
POINT_SLIP = 0.1
"""Most standard deviation of a point whose label is that of a place nearby, likewise."""
WRONG = 0.05
"""Share of the labels that are turned round whatever lies there."""
LEAST_SHARE = 0.001
"""Smallest share of the view's pixels that an object or part is asked for with."""
PARTS = 0.4
"""Share of the prompts that mean a part of an object."""


class SamDecoderTuning(nn.Module):
    """The mask decoder on frames whose image embeddings are known; the prompt encoder is frozen."""

    def __init__(self, visual_model: SamVisualModel) -> None:
        """Take both from `visual_model`, with all mask tokens."""
        super().__init__()
        self.prompts = PointPrompts(visual_model)
        self.prompts.masks = slice(MASK_TOKENS)
        self.prompts.prompt_encoder.requires_grad_(False)

    def forward(
        self, image_embedding: Tensor, points_xy: Tensor, labels: Tensor, truth: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its figures.

        Args:
            image_embedding: float (images, width, rows, columns).
            points_xy: float (images x prompts, points, 2) in pixels of the view.
            labels: int64 (images x prompts, points).
            truth: bool (images x prompts, H, W).
        """
        prompts = len(truth) // len(image_embedding)
        embeddings = image_embedding.repeat_interleave(prompts, 0)
        low, iou = self.prompts(embeddings, points_xy, labels)
        logits = functional.interpolate(low.float(), truth.shape[-2:], mode="bilinear")
        each, truths = logits.flatten(0, 1), truth.repeat_interleave(MASK_TOKENS, 0)
        losses = mask_losses(each, truths.float()).view_as(iou)
        real_iou = mask_iou(each.detach(), truths).view_as(iou)
        quality = functional.mse_loss(iou.float(), real_iou)
        loss = losses[:, 0].mean() + losses[:, 1:].amin(1).mean() + IOU_WEIGHT * quality
        best = iou[:, 1:].argmax(1, keepdim=True)
        figures = {
            "single": real_iou[:, 0].mean(),
            "best": real_iou[:, 1:].gather(1, best).mean(),
            "quality": quality.detach(),
            "images": torch.tensor(float(len(truth))),
        }
        return loss, figures


def draw_boxes_and_points(
    cache: SceneCache,
    embeddings: np.ndarray,
    rng: np.random.Generator,
    *,
    images: int,
    prompts: int,
) -> dict[str, Tensor]:
    """Draw scenes with boxes and points.

    Args:
        cache: Scenes to draw from.
        embeddings: float16 (scenes, width, rows, columns), see `embed_scenes`.
        rng: Source of every choice.
        images: Scenes in the batch.
        prompts: Prompts of each scene.

    Returns:
        The arguments of `SamDecoderTuning.forward` by name.
    """
    chosen = rng.integers(len(cache), size=images)
    truths = np.stack([_thing(cache, int(scene), rng) for scene in np.repeat(chosen, prompts)])
    most = int(rng.choice(MOST_POINTS))
    rows = [_prompt(truth_hw, most, rng) for truth_hw in truths]
    points_xy, labels = (np.stack(column) for column in zip(*rows, strict=True))
    return {
        "image_embedding": torch.from_numpy(embeddings[chosen].astype(np.float32)),
        "points_xy": torch.from_numpy(points_xy),
        "labels": torch.from_numpy(labels),
        "truth": torch.from_numpy(truths),
    }


def _thing(cache: SceneCache, scene: int, rng: np.random.Generator) -> np.ndarray:
    """Return the bool (H, W) mask of an object of a scene, or of one of its parts."""
    instances, parts = cache.instance_map[scene], cache.part_map[scene]
    least_px = LEAST_SHARE * instances.size
    values, counts = np.unique(instances, return_counts=True)
    whole_hw = instances == rng.choice(values[(values > 0) & (counts >= least_px)])
    if rng.random() >= PARTS:
        return whole_hw
    part_hw = whole_hw & (parts == rng.choice(parts[whole_hw]))
    return part_hw if part_hw.sum() >= least_px else whole_hw


def _prompt(
    truth_hw: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a box and up to `most` points as points (2 + most, 2) and labels (2 + most,)."""
    box_xyxy = boxes_xyxy_from_masks(truth_hw[None])[0]
    sides = np.tile(box_xyxy[2:] - box_xyxy[:2], 2)
    box_xyxy = box_xyxy + rng.normal(0, BOX_SLIP * rng.random(), 4) * sides
    corners = np.sort(box_xyxy.reshape(2, 2), axis=0)
    xy = corners[0] + places(rng, most) * (corners[1] - corners[0])
    seen_xy = xy + rng.normal(0, POINT_SLIP * rng.random(), (most, 2)) * sides[:2]
    lies_inside = is_inside(truth_hw, seen_xy) ^ (rng.random(most) < WRONG)
    kept = np.arange(most) < rng.integers(most + 1)
    labels = np.where(kept, np.where(lies_inside, FOREGROUND, BACKGROUND), NO_POINT)
    return (
        np.concatenate([corners, xy]).astype(np.float32),
        np.concatenate([[TOP_LEFT, BOTTOM_RIGHT], labels]),
    )


def places(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw `count` places in a box, all random or of the grid: float64 (count, 2) in [0, 1]."""
    if rng.random() < 0.5:
        return rng.random((count, 2))
    cells = (np.arange(GRID) + 0.5) / GRID
    return rng.permutation(np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2))[:count]
