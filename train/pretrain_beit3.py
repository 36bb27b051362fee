"""BEiT-3's half before the masks: masked words, names of patches, and where the phrase points.

Source: BEiT-3 (arXiv 2208.10442) pre-trains by masked modelling of words and patches. Masked words
are kept; patches predict the name and color of what they show instead of a visual token, and a
phrase predicts the share of each patch that it covers and the box around it, which is what
EVF-SAM's prompt has to know.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..export.models.beit3 import BEiT3
from ..kernels.boxes import boxes_xyxy_from_masks
from ..runtime.spec import ViewSpec
from ..runtime.tokenizer import XlmRoberta
from .cache import COLOR_CLASSES, PART_CLASSES, SceneCache
from .losses import IGNORED, mask_dice, mean_cross_entropy
from .phrases import TaskMix, draw_phrases
from .views import normalized

MASKED_SHARE = 0.2
"""Share of the batch whose words are masked; these rows learn words, the others places."""
MASKED_WORDS = 0.3
"""Share of the words that are hidden in such a row."""
NAMES_WEIGHT = 0.5
"""Weight of the patches' names."""
WORDS_WEIGHT = 0.5
"""Weight of the hidden words."""
BOX_WEIGHT = 2.0
"""Weight of the box's error."""
SPECIALS = (XlmRoberta.BEGIN, XlmRoberta.PAD, XlmRoberta.END, XlmRoberta.UNKNOWN)
"""Ids that are no words."""


class BEiT3Pretraining(nn.Module):
    """The network with the heads it needs only now."""

    def __init__(self, beit3: BEiT3, *, is_compiled: bool) -> None:
        """Wrap `beit3`, compiled by torch where that is worth its minute."""
        super().__init__()
        width = beit3.spec.width
        self.beit3 = beit3
        self.place_head = nn.Linear(width, 1)
        self.box_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
        self.part_head = nn.Linear(width, PART_CLASSES)
        self.color_head = nn.Linear(width, COLOR_CLASSES)
        self.word_head = nn.Linear(width, beit3.spec.vocabulary)
        self.encode = torch.compile(beit3.forward) if is_compiled else beit3.forward

    def forward(
        self, image: Tensor, token_ids: Tensor, hidden_ids: Tensor, cover: Tensor, box_xyxy: Tensor,
        parts: Tensor, colors: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """Return the loss and its figures.

        Args:
            image: float (phrases, 3, H, W).
            token_ids: int64 (phrases, tokens).
            hidden_ids: int64 (phrases, tokens), the true id of each hidden word, IGNORED elsewhere.
            cover: float (phrases, patches), share of each patch that the phrase covers.
            box_xyxy: float (phrases, 4) in [0, 1] of the view.
            parts: int64 (phrases, patches), 0 for table.
            colors: int64 (phrases, patches), 0 for table.
        """
        states = self.encode(image, token_ids)
        patches = states[:, 1 : self.beit3.spec.image_tokens]
        words = states[:, self.beit3.spec.image_tokens :]
        is_whole = (hidden_ids == IGNORED).all(1)
        place = self.place_head(patches).squeeze(-1).float()[is_whole]
        cover, box_xyxy = cover[is_whole], box_xyxy[is_whole]
        places = 2 * functional.binary_cross_entropy_with_logits(place, cover)
        places = places + mask_dice(place, cover)
        box = self.box_head(states[is_whole, 0]).float().sigmoid()
        boxes = functional.l1_loss(box, box_xyxy)
        names = functional.cross_entropy(
            self.part_head(patches).float().flatten(0, 1), parts.flatten()
        )
        colored = self.color_head(patches).float().flatten(0, 1)
        names = names + functional.cross_entropy(colored, colors.flatten())
        guesses = self.word_head(words).float().flatten(0, 1)
        said = mean_cross_entropy(guesses, hidden_ids.flatten())
        loss = places + BOX_WEIGHT * boxes + NAMES_WEIGHT * names + WORDS_WEIGHT * said
        figures = {"place": places, "box": boxes, "names": names, "words": said}
        figures |= {"box_iou": box_iou(box, box_xyxy).mean()}
        figures = {name: value.detach() for name, value in figures.items()}
        return loss, figures | {"images": torch.tensor(float(len(image)))}


def box_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of each pair of boxes, float (n, 4) xyxy, as float (n,)."""
    low = torch.maximum(predicted[:, :2], truth[:, :2])
    high = torch.minimum(predicted[:, 2:], truth[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (predicted, truth)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)


def hide_words(
    token_ids: np.ndarray, rng: np.random.Generator, *, unknown_id: int, specials: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Hide words in a share of the phrases, as `<unk>`.

    Args:
        token_ids: int64 (phrases, tokens).
        rng: Source of every choice.
        unknown_id: Id that stands in for a hidden word.
        specials: Ids that are never hidden.

    Returns:
        Token ids with hidden words, and the true ids of those words with IGNORED elsewhere, both
        int64 (phrases, tokens).
    """
    is_word = ~np.isin(token_ids, specials)
    is_row = rng.random((len(token_ids), 1)) < MASKED_SHARE
    is_hidden = is_word & is_row & (rng.random(token_ids.shape) < MASKED_WORDS)
    shown = np.where(is_hidden, unknown_id, token_ids)
    return shown, np.where(is_hidden, token_ids, IGNORED)


def draw_grounding(
    cache: SceneCache,
    view: ViewSpec,
    ids: np.ndarray,
    rng: np.random.Generator,
    *,
    mix: TaskMix,
    count: int,
    grid_hw: tuple[int, int],
) -> dict[str, Tensor]:
    """Draw phrases with their scenes.

    Args:
        cache: Scenes and phrases to draw from.
        view: BEiT-3's view.
        ids: int64 (phrases, tokens), token ids of all phrases.
        rng: Source of every choice.
        mix: Share of each task.
        count: Phrases in the batch.
        grid_hw: Rows and columns of patches.

    Returns:
        The arguments of `BEiT3Pretraining.forward` by name.
    """
    chosen = draw_phrases(cache.phrases, rng, mix=mix, count=count)
    scenes = cache.phrases.scene[chosen]
    shown, hidden = hide_words(ids[chosen], rng, unknown_id=XlmRoberta.UNKNOWN, specials=SPECIALS)
    masks = torch.from_numpy(cache.phrase_masks(chosen))
    parts, colors = cache.names(scenes, grid_hw)
    return {
        "image": normalized(cache.views[view.name][scenes], view),
        "token_ids": torch.from_numpy(shown),
        "hidden_ids": torch.from_numpy(hidden),
        "cover": functional.adaptive_avg_pool2d(masks.float(), grid_hw).flatten(1),
        "box_xyxy": relative_boxes(masks),
        "parts": torch.from_numpy(parts).flatten(1),
        "colors": torch.from_numpy(colors).flatten(1),
    }


def relative_boxes(masks: Tensor) -> Tensor:
    """Return the boxes of bool (n, H, W) masks as float (n, 4) xyxy in [0, 1]."""
    height, width = masks.shape[-2:]
    boxes = boxes_xyxy_from_masks(masks.numpy()).astype(np.float32)
    return torch.from_numpy(boxes / np.array([width, height, width, height], np.float32))
