"""EVF-SAM's recipe: both halves learn alone, then the words learn to prompt the masks.

Source: EVF-SAM (arXiv 2406.20076), section 4.1: AdamW, linear decay, BCE + dice with equal weights;
the image encoder and all of the prompt encoder but its "no mask" embedding stay frozen. The original
starts from the published SAM and BEiT-3; a miniature has to train both first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...export.checkpoint import VOCABULARY_FILE, CheckpointConfig, write_checkpoint
from ...export.models.beit3 import FIRST_POSITION
from ...export.models.evf_sam import EVF_SAM_SPECS, EvfSam, EvfSamSpec
from ...export.systems.evf_sam import views
from ...runtime.spec import ViewSpec
from ...runtime.tokenizer import XlmRoberta
from ..cache import CacheRecipe, SceneCache, open_cache
from ..loop import LoopRecipe, fit
from ..losses import mask_bce, mask_dice, mask_iou
from ..phrases import TaskMix, draw_phrases
from ..pretrain_beit3 import BEiT3Pretraining, draw_grounding
from ..pretrain_sam import SamPretraining, draw_prompts
from ..samples import write_samples
from ..views import normalized
from ..vocabulary import learn_sentencepiece


MAX_TOKENS = 24
"""Longest training phrase in tokens; all are padded to it, so that one compiled graph fits all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvfSamRecipe:
    """Everything that decides what comes out of training."""

    variant: str = "mini"
    """Key of `EVF_SAM_SPECS`."""
    scenes: CacheRecipe = field(
        default_factory=lambda: CacheRecipe(scenes=18000, phrases_per_task=5)
    )
    """What is drawn and said."""
    mix: TaskMix = field(default_factory=lambda: {"single": 0.7, "part": 0.15, "semantic": 0.15})
    """Share of each task among the phrases."""
    sam_scenes: int = 12000
    """SAM's half sees this many of the scenes."""
    sam_images: int = 32
    """Images in a batch of points and boxes."""
    sam_prompts: int = 4
    """Points and boxes of each image."""
    sam: LoopRecipe = field(default_factory=lambda: LoopRecipe(steps=1200, learning_rate=2e-3))
    """SAM's half."""
    beit3_phrases: int = 96
    """Phrases in a batch of BEiT-3's half."""
    beit3: LoopRecipe = field(default_factory=lambda: LoopRecipe(steps=2400, learning_rate=1e-3))
    """BEiT-3's half."""
    joint_phrases: int = 96
    """Phrases in a batch of the whole."""
    joint: LoopRecipe = field(default_factory=lambda: LoopRecipe(steps=2400, learning_rate=6e-4))
    """The whole."""
    is_compiled: bool = True
    """True to compile BEiT-3 and the mask decoder with torch.compile (1.3 times as fast on a CPU)."""


def train(recipe: EvfSamRecipe, folder: Path) -> Path:
    """Train from nothing to a checkpoint; a second call goes on where the first one stopped.

    Args:
        recipe: Everything that decides what comes out.
        folder: Scenes, vocabulary, states, logs and the finished `checkpoint` go here.

    Returns:
        The checkpoint's folder.
    """
    torch.manual_seed(recipe.sam.seed)
    network = EvfSam(EVF_SAM_SPECS[recipe.variant])
    cache = open_cache(folder / "scenes", recipe.scenes, views(network.spec))
    vocabulary = folder / VOCABULARY_FILE
    if not vocabulary.exists():
        rows = network.spec.multimodal_encoder.vocabulary
        vocabulary.write_bytes(learn_sentencepiece(cache.phrases.texts, rows=rows))
    ids = tokenize(XlmRoberta(vocabulary, MAX_TOKENS), cache)
    train_sam(recipe, network, cache, folder / "sam")
    train_beit3(recipe, network, cache, ids, folder / "beit3")
    train_joint(recipe, network, cache, ids, folder / "joint")
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


def recipe(scale: float) -> EvfSamRecipe:
    """Return the recipe of the shipped miniature, or a share of its scenes and steps."""
    full = EvfSamRecipe()
    if scale == 1:
        return full

    def shorter(loop: LoopRecipe) -> LoopRecipe:
        return replace(loop, steps=max(1, round(loop.steps * scale)))

    return replace(
        full,
        scenes=replace(full.scenes, scenes=max(64, round(full.scenes.scenes * scale))),
        sam=shorter(full.sam),
        beit3=shorter(full.beit3),
        joint=shorter(full.joint),
    )


class EvfSamTraining(nn.Module):
    """The whole network on frames whose image embeddings are known."""

    def __init__(self, network: EvfSam, *, is_compiled: bool) -> None:
        """Freeze what EVF-SAM freezes."""
        super().__init__()
        self.network = network
        visual_model = network.visual_model
        visual_model.requires_grad_(False)
        visual_model.mask_decoder.requires_grad_(True)
        visual_model.prompt_encoder.no_mask_embed.requires_grad_(True)
        self.segment = torch.compile(network.forward) if is_compiled else network.forward

    def forward(
        self, image_embedding: Tensor, image: Tensor, token_ids: Tensor, truth: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its figures.

        Args:
            image_embedding: float (phrases, width, rows, columns).
            image: float (phrases, 3, h, w), BEiT-3's view.
            token_ids: int64 (phrases, tokens).
            truth: bool (phrases, H, W) at the size of SAM's view.
        """
        low = self.segment(image_embedding, image, token_ids).float()
        logits = functional.interpolate(low, truth.shape[-2:], mode="bilinear")[:, 0]
        target = truth.float()
        bce, dice = mask_bce(logits, target), mask_dice(logits, target)
        figures = {"bce": bce.detach(), "dice": dice.detach()}
        figures |= {"gIoU": mask_iou(logits.detach(), truth).mean()}
        return bce + dice, figures | {"images": torch.tensor(float(len(truth)))}


def train_sam(recipe: EvfSamRecipe, network: EvfSam, cache: SceneCache, folder: Path) -> None:
    """Train SAM's half of `network` on points and boxes."""
    spec = network.spec
    phase = SamPretraining(network.visual_model, spec.mask_decoder.width)
    network.visual_model.image_encoder.to(memory_format=torch.channels_last)
    draw = partial(
        draw_prompts,
        cache,
        views(spec)[0],
        scenes=recipe.sam_scenes,
        images=recipe.sam_images,
        prompts=recipe.sam_prompts,
        grid_hw=spec.mask_decoder.grid_hw,
    )
    fit(phase, draw, recipe.sam, folder)


def train_beit3(
    recipe: EvfSamRecipe, network: EvfSam, cache: SceneCache, ids: np.ndarray, folder: Path
) -> None:
    """Train BEiT-3's half of `network` on words and places; `ids` are the phrases' token ids."""
    phase = BEiT3Pretraining(network.mm_extractor["beit3"], is_compiled=recipe.is_compiled)
    spec = network.spec.multimodal_encoder
    draw = partial(
        draw_grounding,
        cache,
        views(network.spec)[1],
        ids,
        mix=recipe.mix,
        count=recipe.beit3_phrases,
        grid_hw=(spec.image_hw[0] // spec.patch, spec.image_hw[1] // spec.patch),
    )
    fit(phase, draw, recipe.beit3, folder)


def train_joint(
    recipe: EvfSamRecipe, network: EvfSam, cache: SceneCache, ids: np.ndarray, folder: Path
) -> None:
    """Train the whole with EVF-SAM's loss; `ids` are the phrases' token ids."""
    sam_view, beit_view = views(network.spec)
    embeddings = embed_scenes(network, cache, sam_view, folder / "image_embeddings.npy")
    draw = partial(
        _draw_joint, cache, beit_view, ids, embeddings, mix=recipe.mix, count=recipe.joint_phrases
    )
    fit(EvfSamTraining(network, is_compiled=recipe.is_compiled), draw, recipe.joint, folder)


def _draw_joint(
    cache: SceneCache,
    view: ViewSpec,
    ids: np.ndarray,
    embeddings: np.ndarray,
    rng: np.random.Generator,
    *,
    mix: TaskMix,
    count: int,
) -> dict[str, Tensor]:
    chosen = draw_phrases(cache.phrases, rng, mix=mix, count=count)
    scenes = cache.phrases.scene[chosen]
    return {
        "image_embedding": torch.from_numpy(embeddings[scenes].astype(np.float32)),
        "image": normalized(cache.views[view.name][scenes], view),
        "token_ids": torch.from_numpy(ids[chosen]),
        "truth": torch.from_numpy(cache.phrase_masks(chosen)),
    }


@torch.inference_mode()
def embed_scenes(network: EvfSam, cache: SceneCache, view: ViewSpec, path: Path) -> np.ndarray:
    """Encode every scene once, as the frozen image encoder gives the same answer each time.

    Returns:
        float16 (scenes, width, rows, columns), mapped from `path`.
    """
    if path.exists():
        return np.load(path, mmap_mode="r")
    spec: EvfSamSpec = network.spec
    shape = (len(cache), spec.mask_decoder.width, *spec.mask_decoder.grid_hw)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial")
    array = np.lib.format.open_memmap(partial_path, mode="w+", dtype=np.float16, shape=shape)
    encoder = network.visual_model.image_encoder.eval()
    for first in range(0, len(cache), 64):
        batch = normalized(cache.views[view.name][first : first + 64], view)
        array[first : first + 64] = encoder(batch).numpy()
    encoder.train()
    array.flush()
    partial_path.rename(path)
    return np.load(path, mmap_mode="r")


def tokenize(tokenizer: XlmRoberta, cache: SceneCache) -> np.ndarray:
    """Return the token ids of all phrases, int64 (phrases, MAX_TOKENS), padded on the right."""
    ids = tokenizer.batch(cache.phrases.texts)
    padded = np.full((len(ids), MAX_TOKENS), XlmRoberta.PAD, np.int64)
    padded[:, : ids.shape[1]] = ids
    return padded
