"""BEiT-3's half: names of patches, and where the phrase points.

BEiT-3 (arXiv 2208.10442) is pre-trained by masked modelling, and EVF-SAM's released checkpoints
start from that. A miniature has no such start and few phrases to learn from, so it is told what
EVF-SAM's prompt has to know: each patch predicts what it shows and how much of it the phrase
covers, and the class token predicts the target's category, color and box and must look there.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..export.models.beit3 import FIRST_POSITION, BEiT3, EncoderLayer
from ..kernels.boxes import boxes_xyxy_from_masks
from ..runtime.spec import ViewSpec
from .cache import CATEGORY_NAMES, COLOR_CLASSES, COLOR_NAMES, PART_CLASSES, SceneCache
from .losses import mask_dice, mean_cross_entropy
from .numbers import grid_waves
from .views import normalized

NAMES_WEIGHT = 0.3
"""Weight of the names of patches, and of the target's."""
BOX_WEIGHT = 4.0
"""Weight of the box's error."""
GAZE_WEIGHT = 0.3
"""Weight of where the class token looks; without it the box stayed a guess for 100,000 phrases."""
GAZE_LAYERS = 2
"""The class token is told where to look in this many of the last layers,"""
GAZE_HEADS = 3
"""and in this many of their heads."""
POSITION_SIZE = 0.5
"""Amplitude of the first patch positions, about as large as the first patch embeddings."""
WORD_POSITION_SIZE = 0.3
"""Standard deviation of the first word positions; the first words have 1."""


class Grounding(nn.Module):
    """BEiT-3 with the heads it needs only in training."""

    def __init__(self, beit3: BEiT3, *, is_compiled: bool) -> None:
        """Wrap `beit3`, compiled by torch where that is worth its minute."""
        super().__init__()
        width = beit3.spec.width
        self.beit3 = beit3
        self.place_head = nn.Linear(width, 1)
        self.part_head = nn.Linear(width, PART_CLASSES)
        self.patch_color_head = nn.Linear(width, COLOR_CLASSES)
        self.category_head = nn.Linear(width, len(CATEGORY_NAMES))
        self.color_head = nn.Linear(width, len(COLOR_NAMES))
        self.box_head = nn.Linear(width, 4)
        self._encode = torch.compile(self.encode) if is_compiled else self.encode

    def encode(self, image: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return BEiT-3's states and where its class token looks.

        Args:
            image: float (phrases, 3, H, W), BEiT-3's view.
            token_ids: int64 (phrases, tokens).

        Returns:
            As `BEiT3.forward`, and attention logits float (phrases, GAZE_LAYERS x GAZE_HEADS,
            patches).
        """
        tokens, bias = self.beit3.embed(image, token_ids)
        layers = self.beit3.encoder.layers
        gazes = []
        for index, layer in enumerate(layers):
            if index >= len(layers) - GAZE_LAYERS:
                gazes.append(class_gaze(cast(EncoderLayer, layer), tokens[0]))
            tokens = layer(tokens, bias)
        return torch.cat(self.beit3.encoder.layer_norm(tokens), dim=1), torch.cat(gazes, dim=1)

    def loss(
        self, states: Tensor, gaze: Tensor, cover: Tensor, box_xyxy: Tensor, parts: Tensor,
        colors: Tensor, category: Tensor, color: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """Return the loss of what `encode` gave, and its figures.

        Args:
            states: float (phrases, image tokens + tokens, width).
            gaze: float (phrases, layers x heads, patches).
            cover: float (phrases, patches), share of each patch that the phrase covers.
            box_xyxy: float (phrases, 4) in [0, 1] of the view.
            parts: int64 (phrases, patches), 0 for table.
            colors: int64 (phrases, patches), 0 for table.
            category: int64 (phrases,), index of the targets' category, IGNORED where they differ.
            color: int64 (phrases,), likewise.
        """
        patches, prompt = states[:, 1 : self.beit3.spec.image_tokens], states[:, 0]
        place = self.place_head(patches).squeeze(-1).float()
        places = 2 * functional.binary_cross_entropy_with_logits(place, cover)
        places = places + mask_dice(place, cover)
        box = self.box_head(prompt).float().sigmoid()
        boxes = functional.l1_loss(box, box_xyxy)
        names = functional.cross_entropy(
            self.part_head(patches).float().flatten(0, 1), parts.flatten()
        )
        colored = self.patch_color_head(patches).float().flatten(0, 1)
        names = names + functional.cross_entropy(colored, colors.flatten())
        named = mean_cross_entropy(self.category_head(prompt).float(), category)
        named = named + mean_cross_entropy(self.color_head(prompt).float(), color)
        share = cover / cover.sum(-1, keepdim=True).clamp(min=1e-6)
        looks = -(share[:, None] * gaze.float().log_softmax(-1)).sum(-1).mean()
        loss = places + BOX_WEIGHT * boxes + NAMES_WEIGHT * (names + named) + GAZE_WEIGHT * looks
        figures = {"place": places, "box": boxes, "names": names, "named": named, "gaze": looks}
        figures |= {"box_iou": box_iou(box, box_xyxy).mean()}
        return loss, {name: value.detach() for name, value in figures.items()}

    def forward(
        self, image: Tensor, token_ids: Tensor, **truth: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its figures; `truth` is what `loss` takes beside the states."""
        states, gaze = self._encode(image, token_ids)
        loss, figures = self.loss(states, gaze, **truth)
        return loss, figures | {"images": torch.tensor(float(len(image)))}


def class_gaze(layer: EncoderLayer, image_tokens: Tensor) -> Tensor:
    """Return how much the class token attends to each patch in `layer`.

    Args:
        layer: One of BEiT-3's.
        image_tokens: float (phrases, 1 + patches, width), what goes into the layer.

    Returns:
        Logits float (phrases, GAZE_HEADS, patches) of its first heads.
    """
    attention = layer.self_attn
    tokens = layer.self_attn_layer_norm.A(image_tokens)
    query, key = (
        projected.unflatten(-1, (attention.heads, -1))[:, :, :GAZE_HEADS].transpose(1, 2)
        for projected in (attention.q_proj.A(tokens[:, :1]), attention.k_proj.A(tokens[:, 1:]))
    )
    return ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).squeeze(2)


@torch.no_grad()
def start_positions(beit3: BEiT3) -> None:
    """Give the position tables a start from which places can be learned.

    torch draws an unrelated row of size 1 for each patch, louder than the patches themselves; from
    there the class token had learned no place after 400,000 phrases. Sines and cosines of the row
    and the column (Attention Is All You Need, section 3.5, in two dimensions) are near for near
    patches.
    """
    spec, positions = beit3.spec, beit3.encoder.embed_positions
    positions.A.weight[: FIRST_POSITION + 1] = 0
    positions.A.weight[FIRST_POSITION + 1 :] = POSITION_SIZE * grid_waves(spec.grid_hw, spec.width)
    nn.init.normal_(positions.B.weight, std=WORD_POSITION_SIZE)
    nn.init.normal_(beit3.vision_embed.cls_token, std=0.02)


def box_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of each pair of boxes, float (n, 4) xyxy, as float (n,)."""
    low = torch.maximum(predicted[:, :2], truth[:, :2])
    high = torch.minimum(predicted[:, 2:], truth[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (predicted, truth)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)


def grounding_batch(
    cache: SceneCache,
    view: ViewSpec,
    ids: np.ndarray,
    chosen: np.ndarray,
    masks: Tensor,
    *,
    grid_hw: tuple[int, int],
) -> dict[str, Tensor]:
    """Look up phrases with their scenes.

    Args:
        cache: Scenes and phrases.
        view: BEiT-3's view.
        ids: int64 (phrases, tokens), token ids of all phrases.
        chosen: int64 (n,), indices of phrases.
        masks: bool (n, H, W), what these phrases mean, at the size of the label maps.
        grid_hw: Rows and columns of patches.

    Returns:
        The arguments of `Grounding.forward` by name.
    """
    scenes = cache.phrases.scene[chosen]
    parts, colors = cache.names(scenes, grid_hw)
    category, color = cache.target_names(chosen)
    return {
        "image": normalized(cache.views[view.name][scenes], view),
        "token_ids": torch.from_numpy(ids[chosen]),
        "cover": functional.adaptive_avg_pool2d(masks.float(), grid_hw).flatten(1),
        "box_xyxy": relative_boxes(masks),
        "parts": torch.from_numpy(parts).flatten(1),
        "colors": torch.from_numpy(colors).flatten(1),
        "category": torch.from_numpy(category),
        "color": torch.from_numpy(color),
    }


def relative_boxes(masks: Tensor) -> Tensor:
    """Return the boxes of bool (n, H, W) masks as float (n, 4) xyxy in [0, 1]."""
    height, width = masks.shape[-2:]
    boxes = boxes_xyxy_from_masks(masks.numpy()).astype(np.float32)
    return torch.from_numpy(boxes / np.array([width, height, width, height], np.float32))
