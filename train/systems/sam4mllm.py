"""SAM4MLLM's recipe: SAM and a LLaVA learn alone, then one to be prompted, the other to prompt.

Source: SAM4MLLM (arXiv 2409.10542), section 4.1: adapters of the language model learn from text
alone, and SAM's mask decoder is tuned to the masks wanted. The original starts from the published
EfficientViT-SAM and LLaVA; a miniature has to train both first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...export.checkpoint import CONFIG_FILE, CheckpointConfig
from ...export.language.adapter import open_adapter
from ...export.models.clip import ClipVisionTower
from ...export.models.llava_llama import LLAVA_SPECS, LlavaLlama
from ...export.models.point_prompts import PointPrompts
from ...export.models.sam4mllm import SAM4MLLM_SPECS
from ...export.models.sam_visual import SamVisualModel
from ...export.systems.sam4mllm import views
from ...export.weights import WEIGHTS_FILE
from ...runtime.errors import UnknownNameError
from ...runtime.replace import replacing
from ...runtime.spec import ViewSpec
from ...runtime.systems.sam4mllm_text import (
    box_question,
    chat,
    group_question,
    points_question,
)  # fmt: skip
from ..boxes import scene_boxes
from ..byte_pairs import learn_byte_pairs
from ..cache import CacheRecipe, SceneCache, open_cache
from ..conversations import Conversations
from ..embeddings import embed_scenes
from ..loop import LoopRecipe, fit
from ..lora import add_lora, save_adapter
from ..packing import Tokens
from ..point_groups import GroupRecipe, open_groups
from ..pretrain_clip import SeeingPatches, draw_patches, start_positions
from ..pretrain_llava import LlavaPretraining, draw_talk, start_words
from ..pretrain_sam import train_sam
from ..requests import requests_by_scene
from ..samples import write_samples
from ..sayings import Saying, open_sayings
from ..talk import Talk, TalkMix
from ..tune_llava import (
    MINIATURE,
    PAPER,
    RELEASED,
    LlavaTuning,
    TuningRecipe,
    draw_conversations,
)
from ..tune_sam_decoder import SamDecoderTuning, draw_boxes_and_points

TASKS = ("single", "part")
"""What calibration and the gate ask: phrases that mean one thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sam4mllmRecipe:
    """Everything that decides what comes out of training."""

    variant: str = "mini"
    """Key of `SAM4MLLM_SPECS`."""
    scenes: CacheRecipe = field(
        default_factory=lambda: CacheRecipe(scenes=30000, phrases_per_task=5)
    )
    """What is drawn and said."""
    sayings: int = 8
    """Groups and questions of each scene, at most."""
    sam_scenes: int = 18000
    """SAM's half sees this many of the scenes."""
    sam_images: int = 32
    """Images in a batch of points or boxes."""
    sam_prompts: int = 4
    """Points or boxes of each image."""
    sam: LoopRecipe = field(default_factory=lambda: LoopRecipe(steps=2800, learning_rate=2e-3))
    """SAM's half."""
    decoder_images: int = 24
    """Images in a batch of points and boxes together."""
    decoder: LoopRecipe = field(
        default_factory=lambda: LoopRecipe(steps=1100, learning_rate=5e-4, save_every=100)
    )
    """SAM's mask decoder; no steps leave it off the shelf."""
    tower_images: int = 64
    """Images in a batch of the vision tower alone."""
    tower: LoopRecipe = field(
        default_factory=lambda: LoopRecipe(steps=2500, learning_rate=1e-3, optimizer="muon")
    )
    """The vision tower."""
    talk: TalkMix = field(default_factory=TalkMix)
    """What the LLaVA learns to talk about."""
    llava_images: int = 12
    """Images in a batch of the LLaVA."""
    llava_tokens: int = 384
    """Longest talk about each."""
    llava: LoopRecipe = field(
        default_factory=lambda: LoopRecipe(steps=7400, learning_rate=1e-3, optimizer="muon")
    )
    """The LLaVA."""
    groups: GroupRecipe = field(default_factory=GroupRecipe)
    """Groups of points, for the variant "ppg" of the protocol."""
    tuning: TuningRecipe = MINIATURE
    """The LLaVA with adapters."""
    is_compiled: bool = True
    """True to compile the LLaVA, faster on a CPU after a minute."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _World:
    """What everything learns from."""

    cache: SceneCache
    """Scenes."""
    boxes: np.ndarray
    """See `scene_boxes`."""
    sayings: Sequence[Saying]
    """Groups and questions."""
    tokens: Tokens
    """The language model's vocabulary."""
    vocabulary: Path
    """Its file."""


def train(recipe: Sam4mllmRecipe, folder: Path) -> Path:
    """Train from nothing to a checkpoint; a second call goes on where the first one stopped.

    Both variants of the protocol, "pqpp" and "ppg", share all but the adapters in one folder.

    Args:
        recipe: Everything that decides what comes out.
        folder: Scenes, vocabulary, states, logs and the finished checkpoint go here.

    Returns:
        The checkpoint's folder, `checkpoint-pqpp` or `checkpoint-ppg`.

    Raises:
        InputError: The scenes in `folder` are of another recipe.
        SaymaskError: See `loop.fit`.
        UnknownNameError: No such variant.
    """
    if recipe.variant not in SAM4MLLM_SPECS or recipe.variant not in LLAVA_SPECS:
        known = SAM4MLLM_SPECS.keys() & LLAVA_SPECS.keys()
        raise UnknownNameError("variant of sam4mllm", recipe.variant, known)
    spec = SAM4MLLM_SPECS[recipe.variant]
    sam_view, vision_view = views(spec)
    torch.manual_seed(recipe.sam.seed)
    visual_model, llava = SamVisualModel(spec.visual_model), LlavaLlama(LLAVA_SPECS[recipe.variant])
    world = _open_world(recipe, (sam_view, vision_view), folder)
    embeddings = train_visual_model(recipe, visual_model, world.cache, sam_view, folder / "sam")
    train_llava(recipe, llava, world, vision_view, folder)
    talk = _conversations(recipe, visual_model, world, embeddings, folder / "groups")
    form = recipe.tuning.conversations.protocol.variant
    before = llava.tensors()
    tune_llava(recipe.tuning, llava, talk, world, vision_view, folder / form)
    adapter = open_adapter(folder / form / "adapter")
    tensors = {name: adapter.merged(name, value) for name, value in before.items()}
    seen = visual_model.state_dict().items()
    tensors |= {f"visual_model.{name}": value for name, value in seen}
    checkpoint = folder / f"checkpoint-{form}"
    _write_checkpoint(checkpoint, recipe, tensors, world.vocabulary)
    return checkpoint


def train_visual_model(
    recipe: Sam4mllmRecipe, visual_model: SamVisualModel, cache: SceneCache, view: ViewSpec,
    folder: Path,
) -> np.ndarray:  # fmt: skip
    """Train a SAM on points or boxes, then its decoder on both at once.

    Returns:
        The scenes' embeddings, see `embed_scenes`.
    """
    train_sam(
        visual_model,
        cache,
        view,
        recipe.sam,
        folder / "points",
        scenes=recipe.sam_scenes,
        images=recipe.sam_images,
        prompts=recipe.sam_prompts,
    )
    embeddings = embed_scenes(visual_model, cache, view, folder / "image_embeddings.npy")
    if recipe.decoder.steps:
        draw = partial(
            draw_boxes_and_points,
            cache,
            embeddings,
            images=recipe.decoder_images,
            prompts=recipe.sam_prompts,
        )
        fit(SamDecoderTuning(visual_model), draw, recipe.decoder, folder / "decoder")
    return embeddings


def train_llava(
    recipe: Sam4mllmRecipe, llava: LlavaLlama, world: _World, view: ViewSpec, folder: Path
) -> None:
    """Train a LLaVA's vision tower in `folder`/tower, then all else of it in `folder`/llava."""
    tower = cast(ClipVisionTower, llava.vision.vision_tower["vision_tower"])
    spec = llava.spec.vision.vision_tower
    start_positions(tower, spec)
    patches = SeeingPatches(tower, spec.width, is_compiled=recipe.is_compiled)
    scenes = len(world.cache) - held_out_scenes(len(world.cache))
    draw_tower = partial(
        draw_patches, world.cache, world.boxes, view, scenes=scenes, images=recipe.tower_images,
        grid_hw=spec.grid_hw,
    )  # fmt: skip
    fit(patches, draw_tower, recipe.tower, folder / "tower")
    start_words(llava.language.model, world.tokens)
    system = recipe.tuning.conversations.protocol.system
    phase = LlavaPretraining(
        llava, world.tokens, system, held_out=1, is_compiled=recipe.is_compiled
    )
    talk = Talk(world.cache, world.boxes, world.sayings, world.tokens, spec.grid_hw)

    def draw(rng: np.random.Generator) -> dict[str, Tensor]:
        return draw_talk(
            world.cache, view, talk, recipe.talk, rng, scenes=scenes, images=recipe.llava_images,
            held_out=1, tokens=recipe.llava_tokens,
        )  # fmt: skip

    fit(phase, draw, recipe.llava, folder / "llava")


def held_out_scenes(scenes: int) -> int:
    """Return how many of the last scenes only measure the LLaVA."""
    return max(1, scenes // 30)


def tune_llava(
    recipe: TuningRecipe, llava: LlavaLlama, talk: Conversations, world: _World, view: ViewSpec,
    folder: Path,
) -> None:  # fmt: skip
    """Train adapters of a LLaVA, which end up in `folder`/adapter as PEFT keeps them."""
    add_lora(llava, recipe.lora)
    phase = LlavaTuning(llava, world.tokens, recipe.conversations.protocol.system)

    def draw(rng: np.random.Generator) -> dict[str, Tensor]:
        return draw_conversations(
            talk, world.cache, view, rng, images=recipe.images, tokens=recipe.tokens
        )

    fit(phase, draw, recipe.loop, folder)
    save_adapter(llava, recipe.lora, folder / "adapter")


def _in_one_turn(tuning: TuningRecipe) -> TuningRecipe:
    """Return a tuning to the variant that writes its points beside the box."""
    talk = tuning.conversations
    return replace(
        tuning, conversations=replace(talk, protocol=replace(talk.protocol, variant="ppg"))
    )


RECIPES = {
    "miniature": Sam4mllmRecipe(),
    "miniature-ppg": Sam4mllmRecipe(tuning=_in_one_turn(MINIATURE)),
    "paper": Sam4mllmRecipe(tuning=PAPER),
    "paper-ppg": Sam4mllmRecipe(tuning=_in_one_turn(PAPER)),
    "released": Sam4mllmRecipe(tuning=RELEASED),
}
"""What can be trained, by name; the first is what ships. All tune a base that is made alike, as
`tune_llava` says; both variants in one folder tune the same copy."""


def scaled(full: Sam4mllmRecipe, scale: float) -> Sam4mllmRecipe:
    """Return a recipe, or the share `scale` of its scenes and steps."""
    if scale == 1:
        return full
    tuning = replace(full.tuning, loop=full.tuning.loop.scaled(scale))
    return replace(
        full,
        scenes=replace(full.scenes, scenes=max(64, round(full.scenes.scenes * scale))),
        groups=replace(full.groups, scenes=max(16, round(full.groups.scenes * scale))),
        sam=full.sam.scaled(scale),
        decoder=full.decoder.scaled(scale),
        tower=full.tower.scaled(scale),
        llava=full.llava.scaled(scale),
        tuning=tuning,
    )


def _open_world(recipe: Sam4mllmRecipe, views: tuple[ViewSpec, ViewSpec], folder: Path) -> _World:
    cache = open_cache(folder / "scenes", recipe.scenes, views)
    path = folder / "sayings.jsonl"
    sayings = open_sayings(path, recipe.scenes, scenes=len(cache), per_task=recipe.sayings)
    vocabulary = folder / "tokenizer.json"
    if not vocabulary.exists():
        rows = LLAVA_SPECS[recipe.variant].language.vocabulary
        unfinished = vocabulary.with_suffix(".partial")
        unfinished.write_text(learn_byte_pairs(_texts(recipe, cache, sayings), rows=rows))
        unfinished.replace(vocabulary)
    return _World(
        cache=cache,
        boxes=scene_boxes(cache, folder / "boxes.npy"),
        sayings=sayings,
        tokens=Tokens(vocabulary),
        vocabulary=vocabulary,
    )


def _texts(recipe: Sam4mllmRecipe, cache: SceneCache, sayings: Sequence[Saying]) -> Iterator[str]:
    """Yield all that users and models say, whole conversations among it."""
    system = recipe.tuning.conversations.protocol.system
    nowhere = np.zeros((0, 2), np.int64)
    everywhere = points_question(np.array([0, 0, 999, 999]), nowhere)
    for text in cache.phrases.texts:
        yield box_question(text, "0+")
    for one in sayings:
        turns = [
            (one.text, one.answer),
            (group_question(one.text, "1+"), "Yes"),
            (everywhere, "No"),
        ]
        yield from (piece.text for piece in chat(turns, system))


def _conversations(
    recipe: Sam4mllmRecipe, visual_model: SamVisualModel, world: _World, embeddings: np.ndarray,
    folder: Path,
) -> Conversations:  # fmt: skip
    """Gather what is asked; groups of points are chosen where the protocol has them."""
    talk, groups = recipe.tuning.conversations, {}
    is_ppg = talk.protocol.variant == "ppg"
    scenes = (
        recipe.groups.scenes if is_ppg else len(world.cache) - held_out_scenes(len(world.cache))
    )
    requests = requests_by_scene(world.cache, world.sayings, tasks=tuple(talk.mix), scenes=scenes)
    if is_ppg:
        things = [[thing for each in asked for thing in each.things] for asked in requests]
        prompts = PointPrompts(visual_model).eval()
        groups = open_groups(
            folder, prompts, world.cache, embeddings, things, world.boxes, recipe.groups
        )
    return Conversations(world.cache, requests, world.boxes, groups, world.tokens, talk)


def _write_checkpoint(
    folder: Path, recipe: Sam4mllmRecipe, tensors: Mapping[str, Tensor], vocabulary: Path
) -> None:
    """Write a checkpoint, all or nothing, matrices in FP16 and a tied one once."""
    spec = LLAVA_SPECS[recipe.variant].language
    config = CheckpointConfig(
        system="sam4mllm",
        variant=recipe.variant,
        max_tokens=spec.max_positions,
        license="Apache-2.0",
    )
    compact = {
        name: value.detach().cpu().half() if value.ndim > 1 else value.detach().cpu()
        for name, value in tensors.items()
        if not (spec.is_tied and name == "lm_head.weight")
    }
    with replacing(folder) as scratch:
        save_file(
            {name: value.contiguous() for name, value in compact.items()}, scratch / WEIGHTS_FILE
        )
        (scratch / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n")
        shutil.copyfile(vocabulary, scratch / vocabulary.name)
        write_samples(scratch, tasks=TASKS)
