"""EVF-SAM on its way out of PyTorch: how it sees a frame, and which graphs it becomes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ...runtime.errors import CheckpointError, UnknownNameError
from ...runtime.spec import TokenizerSpec, ViewSpec
from ..checkpoint import CONFIG_FILE, VOCABULARY_FILE, Checkpoint, CheckpointConfig
from ..graph import Stage
from ..hub import release_names
from ..models.beit3 import BEIT3_SPECS, FIRST_POSITION
from ..models.evf_sam import EVF_SAM_SPECS, EvfSam, EvfSamSpec
from ..models.folding import fold
from ..models.sam2_video import Sam2VideoModel, video_spec
from ..weights import map_tensors
from .evf_sam_memory import memory_stages
from .evf_sam_releases import (
    BEIT_VIEWS,
    OWN,
    SAM_VIEWS,
    Settled,
    Switches,
    settle,
)

__all__ = [
    "MASK_THRESHOLD",
    "MINIATURE",
    "TEMPLATES",
    "VARIANTS",
    "ImageStage",
    "MaskStage",
    "PromptStage",
    "config_from_released",
    "config_from_variant",
    "language_of",
    "load",
    "remarks_on",
    "settings_of",
    "stages",
    "tokenizer_of",
    "views",
    "views_of",
]

MINIATURE = "evf-sam-mini"
"""The checkpoint that ships with saymask."""
TEMPLATES = (("semantic", "[semantic] {phrase}"),)
"""What is put around the words; the tag asks for all of a class instead of one object."""
VARIANTS = EVF_SAM_SPECS
"""Sizes of its networks by name."""
MASK_THRESHOLD = 0.0
"""Logit above which a pixel is inside."""

RELEASED_LICENSE = "Apache-2.0"
RELEASED_IMAGE_ENCODERS = (
    ("huge", "visual_model.mask_decoder.output_upscaling.", "sam-h"),
    ("large", "visual_model.sam_mask_decoder.output_upscaling.", "sam2-l"),
    ("tiny", "visual_model.sam_mask_decoder.output_upscaling.", "sam2-t"),
    ("small", "visual_model.mask_decoder.final_output_upscaling_layers.", "efficientsam-s"),
    ("tiny", "visual_model.mask_decoder.final_output_upscaling_layers.", "efficientsam-ti"),
)
"""The config's "sam_scale", tensors that only this kind of SAM has, and what our variants call it;
the reference has a class for each kind, and the config does not say which."""
RELEASED_SIZES = (("base", 768, 256), ("large", 1024, 256))
"""The config's "mm_extractor_scale", "hidden_size" and "out_dim"."""

RELEASED_ROWS = BEIT3_SPECS["large"].vocabulary
"""Of the released networks' word embedding."""
FEWEST_RELEASED_PIECES = RELEASED_ROWS * 9 // 10
"""A vocabulary that leaves more of their rows without a word, as LLaMA's 32000 pieces would, is not
the one they were trained with, though all its ids have a row."""

MEMORY_PARTS = ("visual_model.memory_attention.", "visual_model.memory_encoder.")
"""What a checkpoint of EVF-SAM2 has that can follow masks; the authors' demo drops both."""

IMAGENET_MEAN_RGB = (123.675, 116.28, 103.53)
IMAGENET_STD_RGB = (58.395, 57.12, 57.375)


def views(spec: EvfSamSpec, switches: Switches = OWN) -> tuple[ViewSpec, ViewSpec]:
    """Return how a frame becomes SAM's and BEiT-3's input."""
    canvas_hw = spec.visual_model.mask_decoder.frame_hw
    seen = SAM_VIEWS[switches.preprocess]
    sam = ViewSpec(
        name="sam",
        size_hw=spec.visual_model.image_hw,
        fit=seen.fit,
        interpolation="bilinear",
        is_antialiased=seen.is_antialiased,
        rounds_to_uint8=seen.rounds_to_uint8,
        mean_rgb=IMAGENET_MEAN_RGB,
        std_rgb=IMAGENET_STD_RGB,
        canvas_hw=canvas_hw,
    )
    beit = ViewSpec(
        name="beit",
        size_hw=spec.multimodal_encoder.image_hw,
        fit="stretch",
        interpolation="bicubic",
        is_antialiased=BEIT_VIEWS[switches.beit_view],
        rounds_to_uint8=False,
        mean_rgb=(127.5, 127.5, 127.5),
        std_rgb=(127.5, 127.5, 127.5),
        canvas_hw=canvas_hw,
    )
    return sam, beit


class ImageStage(nn.Module):
    """The frame in SAM's eyes, once for all phrases."""

    def __init__(self, network: EvfSam) -> None:
        """Take SAM's side."""
        super().__init__()
        self.visual_model = network.visual_model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map float32 (1, 3, h, w) to what the masks are drawn from."""
        return self.visual_model.encode(image)


class PromptStage(nn.Module):
    """The phrases in BEiT-3's eyes while they look at the frame."""

    def __init__(self, network: EvfSam) -> None:
        """Take the multimodal encoder and the projector."""
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, token_ids: Tensor) -> Tensor:
        """Map float32 (1, 3, h, w) and int64 (phrases, tokens) to float32 (phrases, 1, width)."""
        return self.network.prompt(image, token_ids)


class MaskStage(nn.Module):
    """Both together in SAM's mask decoder."""

    def __init__(self, network: EvfSam) -> None:
        """Take SAM's side."""
        super().__init__()
        self.visual_model = network.visual_model

    def forward(self, prompt_embedding: Tensor, *features: Tensor) -> tuple[Tensor, Tensor]:
        """Map both to logits float32 (phrases, 1, h, w) and IoU float32 (phrases, 1)."""
        return self.visual_model.decode(features, prompt_embedding)


def stages(network: EvfSam) -> tuple[Stage, ...]:
    """Return the three graphs of EVF-SAM in the order they run, then those of its memory, if any.

    What follows from the weights alone is folded, so they must not change any more.
    """
    fold(network)
    visual, beit = network.spec.visual_model, network.spec.multimodal_encoder
    image_stage, names = ImageStage(network), network.visual_model.feature_names
    image = torch.zeros(1, 3, *visual.image_hw)
    prompts = torch.zeros(2, 1, visual.mask_decoder.width)
    shaped = zip(names, _shaped_like(image_stage, image), strict=True)
    features = {name: torch.zeros_like(feature) for name, feature in shaped}
    model = network.visual_model
    return (
        Stage(
            name="image",
            module=image_stage,
            examples={"image": image},
            outputs=names,
            varying={},
        ),
        Stage(
            name="prompt",
            module=PromptStage(network),
            examples={
                "image": torch.zeros(1, 3, *beit.image_hw), "token_ids": torch.full((2, 8), 4),
            },
            outputs=("prompt_embedding",),
            varying={"token_ids": {0: "phrases", 1: "tokens"}},
        ),
        Stage(
            name="mask",
            module=MaskStage(network),
            examples={"prompt_embedding": prompts, **features},
            outputs=("logits", "iou"),
            varying={"prompt_embedding": {0: "phrases"}},
        ),
        *(memory_stages(model, features) if isinstance(model, Sam2VideoModel) else ()),
    )  # fmt: skip


def _shaped_like(module: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """Return empty tensors of the shapes that `module` makes of `image`, without working it out."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    nowhere = {name: tensor.to("meta") for name, tensor in tensors.items()}
    shapes = torch.func.functional_call(module, nowhere, (image.to("meta"),))
    return tuple(torch.empty(each.shape) for each in shapes)


def load(checkpoint: Checkpoint, overrides: Mapping[str, str] = MappingProxyType({})) -> EvfSam:
    """Build the checkpoint's network and fill it; SAM-2 keeps its memory where that is stored.

    Args:
        checkpoint: What to load.
        overrides: Values of `Switches` by name, instead of those that belong to the checkpoint.

    Raises:
        CheckpointError: The weights, the vocabulary or the longest phrase do not fit.
        UnknownNameError: The config names no known variant, or the network has no such mask.
    """
    config, spec = checkpoint.config, _spec(checkpoint)
    longest = spec.multimodal_encoder.max_positions - FIRST_POSITION
    if not 2 < config.max_tokens <= longest:
        raise CheckpointError(
            f"max_tokens of evf-sam {config.variant} must be from 3 to {longest}; got "
            f"{config.max_tokens}; correct {checkpoint.folder / CONFIG_FILE}"
        )
    rows = spec.multimodal_encoder.vocabulary
    fewest = FEWEST_RELEASED_PIECES if rows == RELEASED_ROWS else 0
    checkpoint.check_vocabulary(rows, fewest=fewest)
    mask = _settled(checkpoint, overrides).switches.mask_choice
    video = video_spec(spec.visual_model) if _holds_memory(checkpoint) else None
    with torch.device("meta"):
        network = EvfSam(spec)
        if video is not None:
            network.visual_model = Sam2VideoModel(video)
    if mask not in network.visual_model.mask_choices:
        raise UnknownNameError(
            f"mask_choice of evf-sam {config.variant}", mask, network.visual_model.mask_choices
        )
    network.visual_model.mask_choice = mask
    checkpoint.load_into(network)
    return network.eval()


def views_of(
    checkpoint: Checkpoint, overrides: Mapping[str, str] = MappingProxyType({})
) -> tuple[ViewSpec, ViewSpec]:
    """Return `views` as the checkpoint's own code has them; arguments and errors as in `load`."""
    return views(_spec(checkpoint), _settled(checkpoint, overrides).switches)


def tokenizer_of(checkpoint: Checkpoint) -> TokenizerSpec:
    """Return how words become token ids; errors as in `load`."""
    return TokenizerSpec(
        kind="xlm-roberta",
        file=VOCABULARY_FILE,
        max_tokens=checkpoint.config.max_tokens,
        rows=_spec(checkpoint).multimodal_encoder.vocabulary,
    )


def settings_of(
    checkpoint: Checkpoint, overrides: Mapping[str, str] = MappingProxyType({})
) -> tuple[tuple[str, str], ...]:
    """Return the switches, which views and graphs follow already, and what told them."""
    return _settled(checkpoint, overrides).settings()


def remarks_on(
    checkpoint: Checkpoint, overrides: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Say which switches are taken, why, and how they are turned; arguments as in `load`."""
    return (_settled(checkpoint, overrides).remark(),)


def language_of(checkpoint: Checkpoint) -> None:
    """Return None: BEiT-3, which reads the words, is a graph."""


def _settled(checkpoint: Checkpoint, overrides: Mapping[str, str]) -> Settled:
    path = checkpoint.folder / CONFIG_FILE
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    names = release_names(checkpoint.name, checkpoint.folder, config.get("_name_or_path"))
    return settle(names, checkpoint.config.variant, overrides)


def _holds_memory(checkpoint: Checkpoint) -> bool:
    names = [name for name, _ in map_tensors(checkpoint.weight_files)]
    return all(any(part in name for name in names) for part in MEMORY_PARTS)


def _spec(checkpoint: Checkpoint) -> EvfSamSpec:
    variant = checkpoint.config.variant
    if variant not in EVF_SAM_SPECS:
        raise UnknownNameError("variant of evf-sam", variant, EVF_SAM_SPECS)
    return EVF_SAM_SPECS[variant]


def config_from_released(
    released: Mapping[str, object], tensor_names: Iterable[str]
) -> CheckpointConfig:
    """Translate the config.json that EVF-SAM's authors released (its reference's `EvfConfig`).

    Args:
        released: Content of the file; values that equal the reference's defaults may be left out.
        tensor_names: Names of the stored weights, which tell one kind of SAM from another.

    Raises:
        CheckpointError: It describes no EVF-SAM that was released.
    """
    names, scale = list(tensor_names), released.get("sam_scale")
    encoders = [
        encoder
        for its_scale, mark, encoder in RELEASED_IMAGE_ENCODERS
        if its_scale == scale and any(mark in name for name in names)
    ]
    if not encoders:
        raise CheckpointError(
            '"sam_scale" of a released evf-sam must be huge with SAM\'s weights, large or tiny '
            f"with SAM-2's, small or tiny with EfficientSAM's; got {scale!r} with others; take "
            f"weights and {CONFIG_FILE} of one release, or name them with --variant"
        )
    words = released.get("mm_extractor_scale")
    sizes = words, released.get("hidden_size", 768), released.get("out_dim", 256)
    if sizes not in RELEASED_SIZES:
        raise CheckpointError(
            '"mm_extractor_scale", "hidden_size" and "out_dim" of a released evf-sam must be '
            f"{' or '.join(map(str, RELEASED_SIZES))}; got {sizes}; take the {CONFIG_FILE} that "
            "was released with the weights"
        )
    return config_from_variant(f"{encoders[0]}-beit3-{words}", license=RELEASED_LICENSE)


def config_from_variant(variant: str, *, license: str) -> CheckpointConfig:
    """Say what weights of an official variant are for, without a config.json.

    Args:
        variant: Key of `EVF_SAM_SPECS`.
        license: SPDX identifier of the weights' licence.
    """
    longest = EVF_SAM_SPECS[variant].multimodal_encoder.max_positions - FIRST_POSITION
    return CheckpointConfig(system="evf-sam", variant=variant, max_tokens=longest, license=license)
