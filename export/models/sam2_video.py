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
from .sam2 import SAM2_SPECS, Sam2Spec, Sam2VisualModel
from .sam2_memory import MemoryAttention, MemoryEncoder, MemorySpec, sine_positions

__all__ = ["SAM2_VIDEO_SPECS", "Sam2VideoModel", "Sam2VideoSpec"]

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


class Sam2VideoModel(Sam2VisualModel):
    """SAM-2 whole: `decode` answers single images, the other methods follow objects.

    A video goes frame by frame. The prompted one: `encode`, `track` with its prompt,
    `encode_memory`. Every later one: `look`, `attend_memory`, `track` with `no_prompt`,
    `encode_memory`. The caller keeps what they return and chooses what a frame remembers: the
    memories of the prompted frame and of the last `slots - 1` frames, the object pointers of the
    prompted frame and of the last `pointers - 1`.
    """

    def __init__(self, spec: Sam2VideoSpec) -> None:
        """Build all parts with random weights."""
        super().__init__(spec.visual)
        width, memory = spec.visual.mask_decoder.width, spec.memory
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(memory.slots, 1, 1, memory.width))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, width))
        self.obj_ptr_proj = MLP(width, width, width)
        self.memory_attention = MemoryAttention(width, memory)
        self.memory_encoder = MemoryEncoder(width, memory)
        # Checkpoints hold these two, but only prompts by mask and another way to say "no memory",
        # which no published SAM-2 takes, would use them.
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
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
        encodings = self.maskmem_tpos_enc.flatten(1)
        when = encodings[(ages - 1) % encodings.shape[0]]  # The prompted frame has the last one.
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
        pointers = torch.where(is_there, self.obj_ptr_proj(best.tokens[:, 0]), self.no_obj_ptr)
        return logits, best.iou, pointers, best.object_logit

    def encode_memory(self, image_embedding: Tensor, logits: Tensor, is_prompted: Tensor) -> Tensor:
        """Remember a frame and the mask of each object in it.

        Args:
            image_embedding: float (1 or objects, width, rows, columns), the first that `look`
                returns: without "no memory" and before `attend_memory`.
            logits: float (objects, 1, 4 rows, 4 columns), `track`'s.
            is_prompted: bool (objects, 1): True on the frame the object was prompted in, whose mask
                is remembered as yes or no instead of as a probability.

        Returns:
            float (objects, memory width, rows, columns).
        """
        logits = functional.interpolate(
            logits.float(), scale_factor=float(MASK_STRIDE), mode="bilinear", align_corners=False
        )
        binary = (logits > 0).to(logits)
        mask = torch.where(is_prompted[..., None, None], binary, logits.sigmoid())
        return self.memory_encoder(image_embedding, MASK_SCALE * mask + MASK_BIAS)
