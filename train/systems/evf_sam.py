"""EVF-SAM's recipe: both halves learn alone, then the words learn to prompt the masks.

Source: EVF-SAM (arXiv 2406.20076), section 4.1: AdamW, linear decay, BCE + dice with equal weights;
the image encoder and all of the prompt encoder but its "no mask" embedding stay frozen. The
original starts from the published SAM and BEiT-3; a miniature has to train both first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...export.checkpoint import VOCABULARY_FILE, CheckpointConfig, write_checkpoint
from ...export.models.beit3 import FIRST_POSITION, BEiT3
from ...export.models.evf_sam import EVF_SAM_SPECS, EvfSam
from ...export.models.sam_visual import SamVisualModel, SamVisualSpec
from ...export.systems.evf_sam import views
from ...runtime.errors import UnknownNameError
from ...runtime.tokenizer import XlmRoberta
from ..cache import CacheRecipe, SceneCache, open_cache
from ..embeddings import embed_scenes
from ..grounding import Grounding, grounding_batch, start_positions
from ..loop import LoopRecipe, fit
from ..losses import mask_bce, mask_dice, mask_iou
from ..phrases import TaskMix, draw_phrases
from ..pretrain_sam import train_sam
from ..samples import write_samples
from ..vocabulary import learn_sentencepiece

GROUNDING_WEIGHT = 0.3
"""Weight of BEiT-3's own losses while the whole learns; zero in EVF-SAM."""
TRAINABLE = tuple(
    name for name, spec in EVF_SAM_SPECS.items() if isinstance(spec.visual_model, SamVisualSpec)
)
"""Variants whose SAM can be trained from nothing, on points and boxes."""
MAX_TOKENS = 24
"""Longest training phrase in tokens; all are padded to it, so that one compiled graph fits all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvfSamRecipe:
    """Everything that decides what comes out of training."""

    variant: str = "mini"
    """Key of `EVF_SAM_SPECS`."""
    scenes: CacheRecipe = field(
        default_factory=lambda: CacheRecipe(scenes=30000, phrases_per_task=5)
    )
    """What is drawn and said."""
    mix: TaskMix = field(default_factory=lambda: {"single": 0.75, "part": 0.1, "semantic": 0.15})
    """Share of each task among the phrases."""
    sam_scenes: int = 18000
    """SAM's half sees this many of the scenes."""
    sam_images: int = 32
    """Images in a batch of points and boxes."""
    sam_prompts: int = 4
    """Points and boxes of each image."""
    sam: LoopRecipe = field(default_factory=lambda: LoopRecipe(steps=2800, learning_rate=2e-3))
    """SAM's half."""
    beit3_phrases: int = 96
    """Phrases in a batch of BEiT-3's half."""
    beit3: LoopRecipe = field(
        default_factory=lambda: LoopRecipe(steps=3600, learning_rate=1e-3, optimizer="muon")
    )
    """BEiT-3's half."""
    joint_phrases: int = 96
    """Phrases in a batch of the whole."""
    joint: LoopRecipe = field(
        default_factory=lambda: LoopRecipe(steps=3400, learning_rate=5e-4, optimizer="muon")
    )
    """The whole; EVF-SAM's own optimizer, for weights that are not learned from nothing, is
    "adamw"."""
    is_compiled: bool = True
    """True to compile BEiT-3 and the mask decoder, 1.3 times as fast on a CPU after a minute."""


def train(recipe: EvfSamRecipe, folder: Path) -> Path:
    """Train from nothing to a checkpoint; a second call goes on where the first one stopped.

    Args:
        recipe: Everything that decides what comes out.
        folder: Scenes, vocabulary, states, logs and the finished `checkpoint` go here.

    Returns:
        The checkpoint's folder.

    Raises:
        InputError: The scenes in `folder` are of another recipe.
        SaymaskError: See `loop.fit`.
        UnknownNameError: No such variant.
    """
    if recipe.variant not in TRAINABLE:
        raise UnknownNameError("variant of evf-sam", recipe.variant, TRAINABLE)
    torch.manual_seed(recipe.sam.seed)
    network = EvfSam(EVF_SAM_SPECS[recipe.variant])
    cache = open_cache(folder / "scenes", recipe.scenes, views(network.spec))
    vocabulary = folder / VOCABULARY_FILE
    if not vocabulary.exists():
        rows = network.spec.multimodal_encoder.vocabulary
        unfinished = vocabulary.with_suffix(".partial")
        unfinished.write_bytes(learn_sentencepiece(cache.phrases.texts, rows=rows))
        unfinished.replace(vocabulary)
    ids = tokenize(XlmRoberta(vocabulary, MAX_TOKENS), cache)
    train_sam(
        _sam(network),
        cache,
        views(network.spec)[0],
        recipe.sam,
        folder / "sam",
        scenes=recipe.sam_scenes,
        images=recipe.sam_images,
        prompts=recipe.sam_prompts,
    )
    grounding = train_beit3(recipe, network, cache, ids, folder / "beit3")
    train_joint(recipe, network, grounding, cache, ids, folder / "joint")
    spec = network.spec.multimodal_encoder
    config = CheckpointConfig(
        system="evf-sam",
        variant=recipe.variant,
        max_tokens=spec.max_positions - FIRST_POSITION,
        license="Apache-2.0",
    )
    checkpoint = folder / "checkpoint"
    samples = partial(write_samples, tasks=tuple(recipe.mix))
    write_checkpoint(checkpoint, network, config, vocabulary.read_bytes(), extras=samples)
    return checkpoint


RECIPES = {"miniature": EvfSamRecipe()}
"""What can be trained, by name; the first is what ships."""


def scaled(full: EvfSamRecipe, scale: float) -> EvfSamRecipe:
    """Return a recipe, or the share `scale` of its scenes and steps."""
    if scale == 1:
        return full

    return replace(
        full,
        scenes=replace(full.scenes, scenes=max(64, round(full.scenes.scenes * scale))),
        sam=full.sam.scaled(scale),
        beit3=full.beit3.scaled(scale),
        joint=full.joint.scaled(scale),
    )


class EvfSamTraining(nn.Module):
    """The whole network on frames whose image embeddings are known."""

    def __init__(self, network: EvfSam, grounding: Grounding, *, is_compiled: bool) -> None:
        """Freeze what EVF-SAM freezes; `grounding` holds the network's BEiT-3 and its heads."""
        super().__init__()
        self.network = network
        visual_model = _sam(network)
        visual_model.requires_grad_(False)
        visual_model.mask_decoder.requires_grad_(True)
        visual_model.prompt_encoder.no_mask_embed.requires_grad_(True)
        self.grounding = grounding
        self._segment = torch.compile(self.segment) if is_compiled else self.segment

    def segment(
        self, image_embedding: Tensor, image: Tensor, token_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of `EvfSam.forward` and what `Grounding.encode` gives."""
        states, gaze = self.grounding.encode(image, token_ids)
        prompt = self.network.text_hidden_fcs[0](states[:, :1])
        return self.network.visual_model.decode((image_embedding,), prompt)[0], states, gaze

    def forward(
        self, image_embedding: Tensor, image: Tensor, token_ids: Tensor, truth: Tensor,
        **grounded: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """Return the loss and its figures.

        BEiT-3 goes on learning names and places: without them the mask's own gradient taught the
        prompt to read only slowly (after 77,000 phrases a linear probe found the category in 35 %
        of the prompts).

        Args:
            image_embedding: float (phrases, width, rows, columns).
            image: float (phrases, 3, h, w), BEiT-3's view.
            token_ids: int64 (phrases, tokens).
            truth: bool (phrases, H, W) at the size of SAM's view.
            grounded: What `Grounding.loss` takes beside the states.
        """
        low, states, gaze = self._segment(image_embedding, image, token_ids)
        logits = functional.interpolate(low.float(), truth.shape[-2:], mode="bilinear")[:, 0]
        target = truth.float()
        bce, dice = mask_bce(logits, target), mask_dice(logits, target)
        grounding, figures = self.grounding.loss(states, gaze, **grounded)
        figures |= {"bce": bce.detach(), "dice": dice.detach()}
        figures |= {"gIoU": mask_iou(logits.detach(), truth).mean()}
        loss = bce + dice + GROUNDING_WEIGHT * grounding
        return loss, figures | {"images": torch.tensor(float(len(truth)))}


def _sam(network: EvfSam) -> SamVisualModel:
    return cast(SamVisualModel, network.visual_model)


def train_beit3(
    recipe: EvfSamRecipe, network: EvfSam, cache: SceneCache, ids: np.ndarray, folder: Path
) -> Grounding:
    """Train BEiT-3's half of `network` on words and places; `ids` are what `tokenize` gave.

    Returns:
        That half with the heads that it learned with.
    """
    beit3 = cast(BEiT3, network.mm_extractor["beit3"])
    start_positions(beit3)
    phase = Grounding(beit3, is_compiled=recipe.is_compiled)
    view = views(network.spec)[1]

    def draw(rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = draw_phrases(cache.phrases, rng, mix=recipe.mix, count=recipe.beit3_phrases)
        masks = torch.from_numpy(cache.phrase_masks(chosen))
        return grounding_batch(cache, view, ids, chosen, masks, grid_hw=beit3.spec.grid_hw)

    fit(phase, draw, recipe.beit3, folder)
    return phase


def train_joint(
    recipe: EvfSamRecipe, network: EvfSam, grounding: Grounding, cache: SceneCache,
    ids: np.ndarray, folder: Path,
) -> None:  # fmt: skip
    """Train the whole `network` with EVF-SAM's loss; arguments are what came before gave."""
    sam_view, beit_view = views(network.spec)
    path = folder / "image_embeddings.npy"
    embeddings = embed_scenes(_sam(network), cache, sam_view, path)
    grid_hw = network.spec.multimodal_encoder.grid_hw

    def draw(rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = draw_phrases(cache.phrases, rng, mix=recipe.mix, count=recipe.joint_phrases)
        of_scenes = embeddings[cache.phrases.scene[chosen]].astype(np.float32)
        masks = torch.from_numpy(cache.phrase_masks(chosen))
        return grounding_batch(cache, beit_view, ids, chosen, masks, grid_hw=grid_hw) | {
            "image_embedding": torch.from_numpy(of_scenes),
            "truth": masks,
        }

    phase = EvfSamTraining(network, grounding, is_compiled=recipe.is_compiled)
    fit(phase, draw, recipe.joint, folder)


def tokenize(tokenizer: XlmRoberta, cache: SceneCache) -> np.ndarray:
    """Return the token ids of all phrases, int64 (phrases, MAX_TOKENS), padded on the right.

    Raises:
        PromptError: A phrase has more than `MAX_TOKENS` tokens.
    """
    ids = tokenizer.batch(cache.phrases.texts)
    padded = np.full((len(ids), MAX_TOKENS), XlmRoberta.PAD, np.int64)
    padded[:, : ids.shape[1]] = ids
    return padded
