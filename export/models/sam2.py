"""SAM-2 on single images: Hiera, SAM's prompt encoder, and a mask decoder that sees finer maps.

Source: SAM 2 (arXiv 2408.00714), section 4, and its reference implementation, whose parameter
names are kept. `sam2_video.Sam2VideoModel` adds the memory that follows objects through a video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .hiera import HIERA_SPECS, FeedForward, HieraImageEncoder, HieraSpec
from .sam import MASK_TOKENS, MLP, MaskDecoder, PromptEncoder, SamSpec
from .visual_model import VisualModel

__all__ = ["MASK_CHOICES", "SAM2_SPECS", "Sam2MaskDecoder", "Sam2Spec", "Sam2VisualModel"]

MASK_CHOICES = ("single", "best", "stable")
"""Mask 0; of masks 1 to 3 the one of highest predicted IoU; mask 0 unless it is unstable."""
STABILITY_DELTA = 0.05
"""How far a mask's threshold moves up and down to see whether its area stays."""
STABILITY_THRESHOLD = 0.98
"""Least ratio of the two areas of a stable mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sam2Spec:
    """Sizes of one SAM-2."""

    image_encoder: HieraSpec
    """What sees the frame."""
    mask_decoder: SamSpec
    """What draws the mask."""
    mask_choice: str
    """Which of the four masks is the answer, one of `MASK_CHOICES`."""

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the image view in pixels."""
        return self.image_encoder.image_hw


def _official(image_encoder: str) -> Sam2Spec:
    return Sam2Spec(
        image_encoder=HIERA_SPECS[image_encoder],
        mask_decoder=SamSpec(
            width=256, heads=8, mlp_width=2048, grid_hw=(64, 64), frame_hw=(1024, 1024), eps=1e-5
        ),
        mask_choice="best",
    )


SAM2_SPECS = {
    "tiny": _official("tiny"),
    "small": _official("small"),
    "base-plus": _official("base-plus"),
    "large": _official("large"),
    "mini": Sam2Spec(
        image_encoder=HIERA_SPECS["mini"],
        mask_decoder=SamSpec(
            width=128, heads=8, mlp_width=256, grid_hw=(16, 20), frame_hw=(256, 320), eps=1e-5
        ),
        mask_choice="single",
    ),
}


class Answer(NamedTuple):
    """What the decoder says of each prompt, before masks are drawn.

    A mask is its kernel times the pixels, so that only the chosen masks need to be drawn.
    """

    tokens: Tensor
    """float (batch, masks, width): the mask tokens after they saw the image."""
    kernels: Tensor
    """float (batch, masks, width // 8)."""
    iou: Tensor
    """float (batch, masks): predicted IoU in [0, 1]."""
    pixels: Tensor
    """float (batch, width // 8, 4 rows, 4 columns)."""
    object_logit: Tensor
    """float (batch, 1): positive where the object is in the frame at all."""

    def single(self) -> Answer:
        """Keep mask 0."""
        return self._replace(
            tokens=self.tokens[:, :1], kernels=self.kernels[:, :1], iou=self.iou[:, :1]
        )

    def best(self) -> Answer:
        """Keep, of masks 1 to 3, each prompt's one of highest predicted IoU."""
        index = self.iou[:, 1:].argmax(1, keepdim=True) + 1
        return self._replace(
            tokens=_row(self.tokens, index),
            kernels=_row(self.kernels, index),
            iou=self.iou.gather(1, index),
        )

    def logits(self) -> Tensor:
        """Draw the masks as logits float (batch, masks, 4 rows, 4 columns)."""
        return (self.kernels @ self.pixels.flatten(2)).unflatten(-1, self.pixels.shape[-2:])

    def draw(self, choice: str) -> tuple[Tensor, Tensor]:
        """Draw one mask of each prompt, by one of `MASK_CHOICES`.

        Returns:
            Logits float (batch, 1, 4 rows, 4 columns) and predicted IoU float (batch, 1).
        """
        if choice == "best":
            best = self.best()
            return best.logits(), best.iou
        single = self.single()
        if choice == "single":
            return single.logits(), single.iou
        best, logits = self.best(), single.logits()
        stable = is_stable(logits)
        return (
            torch.where(stable[..., None, None], logits, best.logits()),
            torch.where(stable, single.iou, best.iou),
        )


def _row(values: Tensor, index: Tensor) -> Tensor:
    """Take a row of each (batch, rows, channels) by index (batch, 1), in a form that traces."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def is_stable(logits: Tensor) -> Tensor:
    """Tell whether a mask's area hardly depends on its threshold.

    The ratio of both areas is compared without a division; an empty mask is stable.

    Args:
        logits: float (batch, masks, height, width).

    Returns:
        bool (batch, masks).
    """
    inner = (logits > STABILITY_DELTA).sum((-2, -1))
    outer = (logits > -STABILITY_DELTA).sum((-2, -1))
    return inner >= STABILITY_THRESHOLD * outer


class Sam2MaskDecoder(nn.Module):
    """SAM's mask decoder with finer maps, an object token and predicted IoU in [0, 1]."""

    def __init__(self, spec: SamSpec) -> None:
        """Take SAM's parts and add SAM-2's own."""
        super().__init__()
        width, sam = spec.width, MaskDecoder(spec)
        self.transformer = sam.transformer
        self.iou_token = sam.iou_token
        self.mask_tokens = sam.mask_tokens
        self.output_upscaling = sam.output_upscaling
        self.output_hypernetworks_mlps = sam.output_hypernetworks_mlps
        self.iou_prediction_head = sam.iou_prediction_head
        for layer in self.transformer.layers:
            layer.mlp = FeedForward(width, spec.mlp_width, nn.ReLU())
        self.obj_score_token = nn.Embedding(1, width)
        self.pred_obj_score_head = MLP(width, width, 1)
        self.conv_s0 = nn.Conv2d(width, width // 8, kernel_size=1)
        self.conv_s1 = nn.Conv2d(width, width // 4, kernel_size=1)

    def forward(
        self, features: tuple[Tensor, ...], positions: Tensor, sparse: Tensor, dense: Tensor
    ) -> Answer:
        """Decode all masks of each prompt.

        Args:
            features: Image embedding float (1 or batch, width, rows, columns) and the maps of
                `conv_s1` and `conv_s0`, (..., width // 4, 2 rows, 2 columns) and
                (..., width // 8, 4 rows, 4 columns); shared or one per prompt.
            positions: float (1, width, rows, columns), `PromptEncoder.dense_positions`.
            sparse: float (batch, tokens, width).
            dense: float, broadcastable to (batch, width, rows, columns).

        Returns:
            Four masks of each prompt.
        """
        image, stride8, stride4 = features
        own = torch.cat(
            [self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight]
        )
        batch = sparse.shape[0]
        own = own.expand(batch, -1, -1).to(sparse.dtype)
        cells = (image + dense).flatten(2).transpose(1, 2).expand(batch, -1, -1)
        tokens, cells = self.transformer(
            cells, positions.flatten(2).transpose(1, 2), torch.cat([own, sparse], dim=1)
        )
        widen, norm, activation, widen_again, activation_again = self.output_upscaling
        pixels = widen(cells.transpose(1, 2).unflatten(-1, image.shape[-2:]))
        pixels = activation(norm(pixels + stride8))
        masks = tokens[:, 2 : 2 + MASK_TOKENS]
        heads = enumerate(self.output_hypernetworks_mlps)
        return Answer(
            tokens=masks,
            kernels=torch.stack([head(masks[:, index]) for index, head in heads], dim=1),
            iou=self.iou_prediction_head(tokens[:, 1]).sigmoid(),
            pixels=activation_again(widen_again(pixels) + stride4),
            object_logit=self.pred_obj_score_head(tokens[:, 0]),
        )


class Sam2VisualModel(VisualModel):
    """Image encoder, prompt encoder and mask decoder under the reference's names."""

    feature_names = ("image_embedding", "stride8", "stride4")
    mask_choices = MASK_CHOICES

    def __init__(self, spec: Sam2Spec) -> None:
        """Build the parts with random weights."""
        super().__init__()
        self.mask_choice = spec.mask_choice
        self.image_encoder = HieraImageEncoder(spec.image_encoder)
        self.sam_prompt_encoder = PromptEncoder(spec.mask_decoder)
        self.sam_mask_decoder = Sam2MaskDecoder(spec.mask_decoder)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, spec.mask_decoder.width))

    def look(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a frame that memory will be attended from: as `encode`, but for no memory.

        Args:
            image: float (batch, 3, height, width), normalised.

        Returns:
            float (batch, width, rows, columns), (batch, width // 4, 2 rows, 2 columns) and
            (batch, width // 8, 4 rows, 4 columns).
        """
        embedding, stride8, stride4 = self.image_encoder(image)
        decoder = self.sam_mask_decoder
        return embedding, decoder.conv_s1(stride8), decoder.conv_s0(stride4)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode a frame without a past: a single image, or the prompted frame of a video.

        Args:
            image: float (batch, 3, height, width), normalised.

        Returns:
            `feature_names`, as `look` with the embedding of "no memory" added.
        """
        embedding, stride8, stride4 = self.look(image)
        return embedding + self.no_mem_embed.reshape(1, -1, 1, 1), stride8, stride4

    def answer(self, features: tuple[Tensor, ...], sparse: Tensor) -> Answer:
        """Decode all masks of prompts without a mask prompt.

        Args:
            features: `feature_names`, of batch 1 or one per prompt.
            sparse: float (batch, tokens, width), prompt tokens.
        """
        prompts = self.sam_prompt_encoder
        return self.sam_mask_decoder(features, prompts.dense_positions(), sparse, prompts.no_mask())

    def decode(self, features: tuple[Tensor, ...], sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one mask per prompt; see `VisualModel.decode`."""
        return self.answer(features, sparse).draw(self.mask_choice)
