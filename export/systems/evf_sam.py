"""EVF-SAM on its way out of PyTorch: how it sees a frame, and which three graphs it becomes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...runtime.errors import CheckpointError, UnknownNameError
from ...runtime.spec import ViewSpec
from ..checkpoint import CONFIG_FILE, Checkpoint
from ..graph import Stage
from ..models.beit3 import FIRST_POSITION
from ..models.evf_sam import EVF_SAM_SPECS, SINGLE_MASK, EvfSam, EvfSamSpec

__all__ = [
    "MASK_THRESHOLD",
    "MINIATURE",
    "TEMPLATES",
    "TOKENIZER",
    "ImageStage",
    "MaskStage",
    "PromptStage",
    "load",
    "stages",
    "views",
]

MINIATURE = "evf-sam-mini"
"""The checkpoint that ships with saymask."""
TOKENIZER = "xlm-roberta"
"""Key of `runtime.tokenizer.TOKENIZERS`."""
TEMPLATES = (("semantic", "[semantic] {phrase}"),)
"""What is put around the words; the tag asks for all of a class instead of one object."""
MASK_THRESHOLD = 0.0
"""Logit above which a pixel is inside."""

IMAGENET_MEAN_RGB = (123.675, 116.28, 103.53)
IMAGENET_STD_RGB = (58.395, 57.12, 57.375)


def views(spec: EvfSamSpec) -> tuple[ViewSpec, ViewSpec]:
    """Return how a frame becomes SAM's and BEiT-3's input (EVF-SAM reference, inference)."""
    sam = ViewSpec(
        name="sam",
        size_hw=spec.image_encoder.image_hw,
        fit="pad",
        interpolation="bilinear",
        is_antialiased=True,
        mean_rgb=IMAGENET_MEAN_RGB,
        std_rgb=IMAGENET_STD_RGB,
    )
    beit = ViewSpec(
        name="beit",
        size_hw=spec.multimodal_encoder.image_hw,
        fit="stretch",
        interpolation="bicubic",
        is_antialiased=spec.is_beit_view_antialiased,
        mean_rgb=(127.5, 127.5, 127.5),
        std_rgb=(127.5, 127.5, 127.5),
    )
    return sam, beit


class ImageStage(nn.Module):
    """The frame in SAM's eyes, once for all phrases."""

    def __init__(self, network: EvfSam) -> None:
        """Take the image encoder."""
        super().__init__()
        self.image_encoder = network.visual_model.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        """Map float32 (1, 3, h, w) to the image embedding float32 (1, width, rows, columns)."""
        return self.image_encoder(image)


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
    """Both together in SAM's mask decoder, its positions folded into constants."""

    def __init__(self, network: EvfSam) -> None:
        """Take the mask decoder and work out the constants of the prompt encoder."""
        super().__init__()
        self.mask_decoder = network.visual_model.mask_decoder
        with torch.no_grad():
            positions = network.visual_model.prompt_encoder.dense_positions()
            no_mask = network.visual_model.prompt_encoder.no_mask()
        self.register_buffer("positions", positions)
        self.register_buffer("no_mask", no_mask.clone())

    def forward(self, image_embedding: Tensor, prompt_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Map both embeddings to logits float32 (phrases, 1, h, w) and IoU float32 (phrases, 1)."""
        return self.mask_decoder(
            image_embedding, self.positions, prompt_embedding, self.no_mask, SINGLE_MASK
        )


def stages(network: EvfSam) -> tuple[Stage, ...]:
    """Return the three graphs of EVF-SAM in the order they run."""
    spec = network.spec
    beit = spec.multimodal_encoder
    width, (rows, columns) = spec.mask_decoder.width, spec.mask_decoder.grid_hw
    words = torch.full((2, 8), 4)
    return (
        Stage(
            name="image",
            module=ImageStage(network),
            examples={"image": torch.zeros(1, 3, *spec.image_encoder.image_hw)},
            outputs=("image_embedding",),
            varying={},
        ),
        Stage(
            name="prompt",
            module=PromptStage(network),
            examples={"image": torch.zeros(1, 3, *beit.image_hw), "token_ids": words},
            outputs=("prompt_embedding",),
            varying={"token_ids": {0: "phrases", 1: "tokens"}},
        ),
        Stage(
            name="mask",
            module=MaskStage(network),
            examples={
                "image_embedding": torch.zeros(1, width, rows, columns),
                "prompt_embedding": torch.zeros(2, 1, width),
            },
            outputs=("logits", "iou"),
            varying={"prompt_embedding": {0: "phrases"}},
        ),
    )


def load(checkpoint: Checkpoint) -> EvfSam:
    """Build the checkpoint's network and fill it.

    Raises:
        CheckpointError: The weights or the longest phrase do not fit.
        UnknownNameError: The config names no known variant.
    """
    variant = checkpoint.config.variant
    if variant not in EVF_SAM_SPECS:
        raise UnknownNameError("variant of evf-sam", variant, EVF_SAM_SPECS)
    spec = EVF_SAM_SPECS[variant]
    longest = spec.multimodal_encoder.max_positions - FIRST_POSITION
    if not 2 < checkpoint.config.max_tokens <= longest:
        raise CheckpointError(
            f"max_tokens of evf-sam {variant} must be from 3 to {longest}; got "
            f"{checkpoint.config.max_tokens}; correct {checkpoint.folder / CONFIG_FILE}"
        )
    network = EvfSam(spec)
    checkpoint.load_into(network)
    return network.eval()
