"""SAM-2 on video: what was seen is remembered, and later frames are read in its light.

Source: SAM 2 (arXiv 2408.00714), figure 3, and its reference implementation, whose parameter names
are kept, so that a whole official checkpoint loads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .sam import MLP
from .sam2 import SAM2_SPECS, Answer, Sam2Spec, Sam2VisualModel
from .sam2_memory import MemoryAttention, MemoryEncoder, MemorySpec, sine_positions
from .visual_model import VisualSpec

__all__ = ["SAM2_VIDEO_SPECS", "Sam2VideoModel", "Sam2VideoSpec", "drawn", "video_spec"]

MASK_STRIDE = 4
"""How much finer than the decoder's logits a mask is when it is remembered: one cell a pixel."""
MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""Map a mask's probability to what the memory encoder was trained on."""
ABSENT_LOGIT = -1024.0
"""Logit of every pixel where the object is not in the frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sam2VideoSpec:
    """Sizes of one SAM-2 with its memory."""

    visual: Sam2Spec
    """What sees a frame and draws masks."""
    memory: MemorySpec
    """What remembers."""


def _official(size: str) -> Sam2VideoSpec:
    memory = MemorySpec(width=64, layers=4, mlp_width=2048, slots=7, pointers=16)
    return Sam2VideoSpec(visual=SAM2_SPECS[size], memory=memory)


SAM2_VIDEO_SPECS = {
    "tiny": _official("tiny"),
    "small": _official("small"),
    "base-plus": _official("base-plus"),
    "large": _official("large"),
    "mini": Sam2VideoSpec(
        visual=SAM2_SPECS["mini"],
        memory=MemorySpec(width=32, layers=2, mlp_width=256, slots=7, pointers=16),
    ),
}


def video_spec(visual: VisualSpec) -> Sam2VideoSpec | None:
    """Return the SAM-2 with memory that sees as `visual` does; None where there is none."""
    return next((spec for spec in SAM2_VIDEO_SPECS.values() if spec.visual == visual), None)


def drawn(logits: Tensor) -> Tensor:
    """Scale logits float (objects, 1, 4 rows, 4 columns) up to (objects, 1, 16 rows, 16 columns).

    That is a pixel of the image view for each; a mask is remembered at this size.
    """
    return functional.interpolate(
        logits.float(), scale_factor=float(MASK_STRIDE), mode="bilinear", align_corners=False
    )


class Sam2VideoModel(Sam2VisualModel):
    """SAM-2 whole: `decode` answers single images, the other methods follow objects.

    A video goes frame by frame. The prompted one: `encode` and `track` with its prompt, or, where
    masks are the prompt, `look` and `point`. Every later one: `look`, `attend_memory`, `track` with
    `no_prompt`. Each ends with `encode_memory`. The caller keeps what they return and chooses what
    a frame remembers: the memories of the prompted frame and of the last `slots - 1` frames, the
    object pointers of the prompted frame and of the last `pointers - 1`.
    """

    def __init__(self, spec: Sam2VideoSpec) -> None:
        """Build all parts with random weights."""
        super().__init__(spec.visual)
        self.spec = spec
        width, memory = spec.visual.mask_decoder.width, spec.memory
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(memory.slots, 1, 1, memory.width))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, width))
        self.obj_ptr_proj = MLP(width, width, width)
        self.memory_attention = MemoryAttention(width, memory)
        self.memory_encoder = MemoryEncoder(width, memory)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=MASK_STRIDE, stride=MASK_STRIDE)
        # Checkpoints hold it, but only another way to say "no memory", which no published SAM-2
        # takes, would use it.
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, width))

    def no_prompt(self, objects: int) -> Tensor:
        """Return the prompt of a frame that has none as float (objects, 2, width).

        SAM-2 gives such a frame one point that is none and pads it, as all points, with another.
        """
        return self.sam_prompt_encoder.not_a_point_embed.weight.expand(objects, 2, -1)

    def attend_memory(
        self,
        image_embedding: Tensor,
        memories: Tensor,
        ages: Tensor,
        pointers: Tensor,
        is_pointer: Tensor,
    ) -> Tensor:
        """Condition a frame on what is remembered of each object.

        Slots are of a fixed number and may be empty. An empty one is masked with -inf before the
        softmax, so its weight is exactly 0 and the result is that of attending to the others alone;
        what lies in it must merely be finite. At least one slot of each object is not empty.

        Args:
            image_embedding: float (1 or objects, width, rows, columns), the first that `look`
                returns; shared by all objects or one for each.
            memories: float (objects, slots, memory width, rows, columns), `encode_memory`'s.
            ages: int64 (objects, slots): 0 the prompted frame, 1 the frame just before this one,
                and so on below the number of temporal encodings; -1 an empty slot.
            pointers: float (objects, pointers, width), `track`'s.
            is_pointer: bool (objects, pointers), False where there is none.

        Returns:
            float (objects, width, rows, columns), the image embedding for `track`.
        """
        memory_width, rows, columns = memories.shape[2:]
        place = sine_positions((rows, columns), memory_width).to(memories)
        # The prompted frame has the last encoding, the newest one the first.
        encodings = self.maskmem_tpos_enc.flatten(1).roll(1, 0)
        when = functional.embedding(ages.clamp(min=0), encodings)
        tokens = pointers.unflatten(-1, (-1, memory_width))
        is_used = (ages >= 0).unsqueeze(-1).expand(-1, -1, rows * columns)
        is_given = is_pointer.unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        is_key = torch.cat([is_used.flatten(1), is_given.flatten(1)], dim=1)
        return self.memory_attention(
            image_embedding,
            memories.flatten(3).transpose(2, 3),
            place.flatten(2).transpose(1, 2).unsqueeze(1) + when.unsqueeze(2),
            tokens.flatten(1, 2),
            torch.where(is_key, 0.0, float("-inf")).to(memories)[:, None, None],
        )

    def track(
        self, features: tuple[Tensor, ...], sparse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode each object's best mask and a pointer to it.

        Args:
            features: `feature_names`, the embedding from `encode` or `attend_memory`, one for each
                object or one for all.
            sparse: float (objects, tokens, width), the prompt or `no_prompt`.

        Returns:
            Logits float (objects, 1, 4 rows, 4 columns), far below 0 where the object is not in the
            frame; predicted IoU float (objects, 1); object pointers float (objects, width);
            object logits float (objects, 1), positive where it is in the frame.
        """
        best = self.answer(features, sparse).best()
        is_there = best.object_logit > 0
        logits = torch.where(is_there[..., None, None], best.logits(), ABSENT_LOGIT)
        return logits, best.iou, self._pointer(best, is_there), best.object_logit

    def point(self, features: tuple[Tensor, ...], mask: Tensor) -> Tensor:
        """Return pointers to objects whose masks are known, where these are the prompt.

        Args:
            features: What `look` returned.
            mask: float (objects, 1, 16 rows, 16 columns), 1 inside and 0 outside.

        Returns:
            float (objects, width); of an empty mask the pointer to nothing.
        """
        prompts = self.sam_prompt_encoder
        dense = prompts.masks(self.mask_downsample(mask))
        sparse = self.no_prompt(mask.shape[0])
        answer = self.sam_mask_decoder(features, prompts.dense_positions(), sparse, dense)
        is_there = (answer.object_logit > 0) & (mask.amax((-2, -1)) > 0)
        return self._pointer(answer.single(), is_there)

    def _pointer(self, answer: Answer, is_there: Tensor) -> Tensor:
        return torch.where(is_there, self.obj_ptr_proj(answer.tokens[:, 0]), self.no_obj_ptr)

    def encode_memory(self, image_embedding: Tensor, mask: Tensor) -> Tensor:
        """Remember a frame and the mask of each object in it.

        Args:
            image_embedding: float (1 or objects, width, rows, columns), the first that `look`
                returns: without "no memory" and before `attend_memory`.
            mask: float (objects, 1, 16 rows, 16 columns) from 0 to 1: on the frame that the object
                was prompted in yes or no, on the others the probability, of `drawn` logits.

        Returns:
            float (objects, memory width, rows, columns).
        """
        return self.memory_encoder(image_embedding, MASK_SCALE * mask + MASK_BIAS)
