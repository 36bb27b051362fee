"""SAM4MLLM on its way out of PyTorch: how it sees a frame, and which graphs it becomes.

The language model becomes a file without PyTorch, see `export.language`. Beside the weights, under
LLaVA-NeXT's names, a checkpoint folder may hold what the authors keep apart:

efficientvit_sam_xl1.pt          EfficientViT-SAM, unless the weights have it as `visual_model.`;
                                 sam.safetensors serves as well
effvit_xl1_decoder_coco_ft.pt    its mask decoder, tuned
adapter/                         a LoRA of the language model and of the projector, by PEFT
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ...runtime.errors import CheckpointError, UnknownNameError
from ...runtime.spec import ViewSpec
from ...runtime.systems import sam4mllm_protocol as protocols
from ...runtime.tiling import TilingSpec
from ..checkpoint import CONFIG_FILE, Checkpoint, CheckpointConfig
from ..dialect import match
from ..graph import Stage
from ..language.adapter import open_adapter
from ..language.layout import layout_from_spec
from ..language.names import language_name
from ..language.stage import LanguageSource
from ..models.folding import fold
from ..models.llava_llama import LLAVA_SPECS
from ..models.point_prompts import PointPrompts
from ..models.sam4mllm import SAM4MLLM_SPECS, Sam4mllm, Sam4mllmSpec
from ..models.sam_visual import SamVisualModel
from ..weights import map_tensors
from .evf_sam import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB

__all__ = [
    "ADAPTER_FOLDER",
    "DECODER_FILE",
    "MASK_THRESHOLD",
    "MINIATURE",
    "PRESET",
    "PROTOCOLS",
    "SAM_FILES",
    "TEMPLATES",
    "VARIANTS",
    "ImageStage",
    "config_from_released",
    "language_of",
    "load",
    "load_decoder",
    "remarks_on",
    "settings_of",
    "stages",
    "tiling",
    "tokenizer_of",
    "views",
    "views_of",
]

MINIATURE = "sam4mllm-mini"
"""The checkpoint that ships with saymask."""
TEMPLATES = ()
"""Words are put into the protocol's questions."""
VARIANTS = SAM4MLLM_SPECS
"""Sizes of its networks by name."""
MASK_THRESHOLD = 0.0
"""Logit above which a pixel is inside."""

RELEASED_VARIANT = "efficientvit-xl1-llava-next-8b"
RELEASED_LICENSE = "LicenseRef-llama3"
PROTOCOLS = {RELEASED_VARIANT: protocols.RELEASED, "mini": protocols.MINIATURE}
"""Variant -> how its weights were asked."""
PRESET = "protocol"
"""Switch that takes a whole protocol by its name."""

SAM_FILES = ("efficientvit_sam_xl1.pt", "sam.safetensors")
"""The first that is there counts."""
DECODER_FILE = "effvit_xl1_decoder_coco_ft.pt"
ADAPTER_FOLDER = "adapter"

CLIP_MEAN_RGB = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD_RGB = (68.5005327, 66.6321579, 70.32316305)

_MISFITS_SHOWN = 8


def views(spec: Sam4mllmSpec) -> tuple[ViewSpec, ViewSpec]:
    """Return how a frame becomes SAM's and the vision tower's input."""
    canvas_hw = spec.visual_model.mask_decoder.frame_hw
    sam = ViewSpec(
        name="sam",
        size_hw=spec.visual_model.image_hw,
        fit="pad",
        interpolation="bilinear",
        is_antialiased=True,
        rounds_to_uint8=spec.rounds_to_uint8,
        mean_rgb=IMAGENET_MEAN_RGB,
        std_rgb=IMAGENET_STD_RGB,
        canvas_hw=canvas_hw,
    )
    vision = ViewSpec(
        name="vision",
        size_hw=spec.vision.vision_tower.image_hw,
        fit="stretch",
        interpolation="bicubic",
        is_antialiased=True,
        rounds_to_uint8=spec.rounds_to_uint8,
        mean_rgb=CLIP_MEAN_RGB,
        std_rgb=CLIP_STD_RGB,
        canvas_hw=canvas_hw,
    )
    return sam, vision


def tiling(spec: Sam4mllmSpec) -> TilingSpec:
    """Return how the vision tower's view is cut, and its tokens put in order."""
    _, vision = views(spec)
    return TilingSpec(view=vision, tokens_hw=spec.vision.vision_tower.grid_hw, grids=spec.grids)


class ImageStage(nn.Module):
    """The frame in SAM's eyes, once for all masks."""

    def __init__(self, visual_model: SamVisualModel) -> None:
        """Take SAM's image encoder."""
        super().__init__()
        self.image_encoder = visual_model.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        """Map float32 (1, 3, h, w) to what the masks are drawn from, (1, width, rows, columns)."""
        return self.image_encoder(image)


def stages(network: Sam4mllm) -> tuple[Stage, ...]:
    """Return the three graphs of SAM4MLLM in the order they run; "language" comes before the last.

    What follows from the weights alone is folded, so they must not change any more.
    """
    fold(network)
    visual, tower = network.spec.visual_model, network.spec.vision.vision_tower
    decoder, (feature,) = visual.mask_decoder, network.visual_model.feature_names
    cuts = bool(network.spec.grids)
    return (
        Stage(
            name="image",
            module=ImageStage(network.visual_model),
            examples={"image": torch.zeros(1, 3, *visual.image_hw)},
            outputs=(feature,),
            varying={},
        ),
        Stage(
            name="vision",
            module=network.model,
            examples={"pixels": torch.zeros(2 if cuts else 1, 3, *tower.image_hw)},
            outputs=("image_embeddings",),
            varying={"pixels": {0: "tiles"}} if cuts else {},
        ),
        Stage(
            name="mask",
            module=PointPrompts(network.visual_model),
            examples={
                feature: torch.zeros(1, decoder.width, *decoder.grid_hw),
                "points_xy": torch.zeros(2, 5, 2),
                "labels": torch.ones(2, 5, dtype=torch.int64),
            },
            outputs=("logits", "iou"),
            varying=dict.fromkeys(("points_xy", "labels"), {0: "masks", 1: "points"}),
        ),
    )


def load(checkpoint: Checkpoint, overrides: Mapping[str, str] = MappingProxyType({})) -> Sam4mllm:
    """Build the checkpoint's network and fill it; the language model's tensors are passed over.

    Args:
        checkpoint: What to load.
        overrides: As in `settings_of`.

    Raises:
        CheckpointError: The weights do not fit.
        UnknownNameError: The config names no known variant, or there is no such override.
    """
    settings_of(checkpoint, overrides)
    with torch.device("meta"):
        network = Sam4mllm(_spec(checkpoint))
    stored = [
        (name, tensor)
        for name, tensor in map_tensors(checkpoint.weight_files)
        if language_name(name) is None
    ]
    folder = checkpoint.folder
    sam = [folder / name for name in SAM_FILES if (folder / name).is_file()]
    stored += [(f"visual_model.{name}", tensor) for name, tensor in map_tensors(sam[:1])]
    _fill(network, stored, folder)
    if (folder / ADAPTER_FOLDER).is_dir():
        _add_adapter(network, folder / ADAPTER_FOLDER)
    if (folder / DECODER_FILE).is_file():
        load_decoder(network.visual_model, folder / DECODER_FILE)
    return network.eval()


def load_decoder(visual_model: SamVisualModel, file: Path) -> None:
    """Replace a SAM's mask decoder by the one that SAM4MLLM's authors tuned on COCO.

    Args:
        visual_model: Whose other parts stay as they are.
        file: Their effvit_xl1_decoder_coco_ft.pt, which has "model." in front of its names and
            within them.

    Raises:
        CheckpointError: It is damaged, or doesn't hold the mask decoder and nothing else.
    """
    stored = [(name.replace("model.", ""), tensor) for name, tensor in map_tensors([file])]
    _fill(nn.ModuleDict({"mask_decoder": visual_model.mask_decoder}), stored, file)


def views_of(
    checkpoint: Checkpoint, overrides: Mapping[str, str] = MappingProxyType({})
) -> tuple[ViewSpec, ViewSpec]:
    """Return `views` of a checkpoint; arguments and errors as in `settings_of`."""
    settings_of(checkpoint, overrides)
    return views(_spec(checkpoint))


def settings_of(
    checkpoint: Checkpoint, overrides: Mapping[str, str] = MappingProxyType({})
) -> tuple[tuple[str, str], ...]:
    """Return the bundle's settings: the protocol that belongs to the weights, and the tiling.

    Args:
        checkpoint: What is exported.
        overrides: Values of the protocol's fields by name, instead of its own; a key of
            `sam4mllm_protocol.PRESETS` as "protocol" chooses the one whose fields they change.

    Raises:
        BundleError: An override makes no sense.
        UnknownNameError: The config names no known variant, or there is no such field or preset.
    """
    cut, fields = tiling(_spec(checkpoint)), dict(overrides)
    preset = fields.pop(PRESET, None)
    if preset not in (None, *protocols.PRESETS):
        raise UnknownNameError("protocol of sam4mllm", preset, protocols.PRESETS)
    own = PROTOCOLS[checkpoint.config.variant]
    chosen = own if preset is None else protocols.PRESETS[preset]
    protocol = dict(protocols.settings_from_protocol(chosen))
    for name, value in fields.items():
        if name not in protocol:
            raise UnknownNameError("switch of sam4mllm", name, (PRESET, *protocol))
        protocol[name] = value
    protocols.protocol_from_settings(tuple(protocol.items()))
    return *protocol.items(), *protocols.settings_from_tiling(cut)


def remarks_on(
    checkpoint: Checkpoint, overrides: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Return nothing: the variant tells the protocol, whose fields are all in the settings."""
    return ()


def tokenizer_of(checkpoint: Checkpoint) -> None:
    """Return None: the language model's file holds its vocabulary."""


def language_of(checkpoint: Checkpoint) -> LanguageSource:
    """Return where the language model lies, and the adapter that is merged into it."""
    folder, adapter = checkpoint.folder, checkpoint.folder / ADAPTER_FOLDER
    return LanguageSource(
        folder=folder,
        layout=layout_from_spec(LLAVA_SPECS[_spec(checkpoint).language].language),
        adapter=adapter if adapter.is_dir() else None,
    )


def config_from_released(
    released: Mapping[str, object], tensor_names: Iterable[str]
) -> CheckpointConfig:
    """Translate the config.json of LLaVA-NeXT, which SAM4MLLM's authors tuned.

    Args:
        released: Content of the file.
        tensor_names: Names of the stored weights, of which none is asked.

    Raises:
        CheckpointError: It describes another model than theirs.
    """
    wanted = LLAVA_SPECS[SAM4MLLM_SPECS[RELEASED_VARIANT].language].language
    sizes = {
        "hidden_size": wanted.width,
        "num_hidden_layers": wanted.layers,
        "vocab_size": wanted.vocabulary,
    }
    other = {name: released.get(name) for name in sizes if released.get(name) != sizes[name]}
    if other:
        raise CheckpointError(
            f"a released sam4mllm is llama3-llava-next-8b with an {ADAPTER_FOLDER} beside it, "
            f"whose {CONFIG_FILE} says {sizes}; got {other}; take that base"
        )
    return CheckpointConfig(
        system="sam4mllm",
        variant=RELEASED_VARIANT,
        max_tokens=wanted.max_positions,
        license=RELEASED_LICENSE,
    )


def _spec(checkpoint: Checkpoint) -> Sam4mllmSpec:
    variant = checkpoint.config.variant
    if variant not in SAM4MLLM_SPECS:
        raise UnknownNameError("variant of sam4mllm", variant, SAM4MLLM_SPECS)
    return SAM4MLLM_SPECS[variant]


def _fill(network: nn.Module, stored: Sequence[tuple[str, Tensor]], source: Path) -> None:
    """Give `network` every tensor, using each name exactly once."""
    wanted = network.state_dict()
    found = match(stored, wanted)
    if found.misfits:
        raise CheckpointError(
            f"the weights in {source} must fit name by name; {len(found.misfits)} do not: "
            f"{'; '.join(found.misfits[:_MISFITS_SHOWN])}; copy them again, or put what belongs "
            f"to the checkpoint beside them: {SAM_FILES[0]}, {DECODER_FILE}"
        )
    tensors = {name: value.to(wanted[name].dtype) for name, value in found.tensors.items()}
    network.load_state_dict(tensors, assign=True)


def _add_adapter(network: Sam4mllm, folder: Path) -> None:
    """Merge what a LoRA does to the language model's eyes."""
    found, weights = open_adapter(folder), network.state_dict()
    adapter = replace(
        found,
        deltas={name: it for name, it in found.deltas.items() if not language_name(name)},
        replacements={
            name: it for name, it in found.replacements.items() if not language_name(name)
        },
    )
    adapter.check({name: tuple(weight.shape) for name, weight in weights.items()})
    changed = {
        name: adapter.merged(name, weights[name]).to(weights[name].dtype)
        for name in (*adapter.deltas, *adapter.replacements)
    }
    network.load_state_dict(changed, strict=False, assign=True)
