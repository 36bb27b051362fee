"""EVF-SAM2's video memory on its way out of PyTorch: the two graphs that follow masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..graph import Stage
from ..models.sam2_video import Sam2VideoModel, drawn

__all__ = ["MemoryStage", "TrackStage", "memory_stages"]


class MemoryStage(nn.Module):
    """A keyframe and what is believed to be in it, remembered."""

    def __init__(self, model: Sam2VideoModel) -> None:
        """Take SAM-2 whole."""
        super().__init__()
        self.model = model

    def forward(
        self, image_embedding: Tensor, stride8: Tensor, stride4: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Remember masks.

        Args:
            image_embedding: float32 (1, width, rows, columns), the image stage's.
            stride8: float32 (1, width / 4, 2 rows, 2 columns), likewise.
            stride4: float32 (1, width / 8, 4 rows, 4 columns), likewise.
            masks: float32 (phrases, 1, 16 rows, 16 columns) over SAM's view, 1 inside, 0 outside.

        Returns:
            Memories float32 (phrases, memory width, rows, columns) and object pointers float32
            (phrases, width).
        """
        embedding = _without_no_memory(self.model, image_embedding)
        pointers = self.model.point((embedding, stride8, stride4), masks)
        return self.model.encode_memory(embedding, masks), pointers


class TrackStage(nn.Module):
    """A frame read in the light of what is remembered, and remembered in turn."""

    def __init__(self, model: Sam2VideoModel) -> None:
        """Take SAM-2 whole."""
        super().__init__()
        self.model = model

    def forward(
        self,
        image_embedding: Tensor,
        stride8: Tensor,
        stride4: Tensor,
        memories: Tensor,
        ages: Tensor,
        pointers: Tensor,
        is_pointer: Tensor,
    ) -> tuple[Tensor, ...]:
        """Find each object again.

        Args:
            image_embedding: float32 (1, width, rows, columns), the image stage's.
            stride8: float32 (1, width / 4, 2 rows, 2 columns), likewise.
            stride4: float32 (1, width / 8, 4 rows, 4 columns), likewise.
            memories: float32 (phrases, memories, memory width, rows, columns), one at least.
            ages: int64 (phrases, memories), see `Sam2VideoModel.attend_memory`.
            pointers: float32 (phrases, 16, width).
            is_pointer: bool (phrases, 16), False where there is none.

        Returns:
            Logits float32 (phrases, 1, 4 rows, 4 columns); predicted IoU and object logits float32
            (phrases, 1), the latter positive where the object is in the frame; the frame's
            memories and object pointers as `MemoryStage` has them.
        """
        model = self.model
        embedding = _without_no_memory(model, image_embedding)
        seen = model.attend_memory(embedding, memories, ages, pointers, is_pointer)
        sparse = model.no_prompt(memories.shape[0])
        logits, iou, pointer, object_logit = model.track((seen, stride8, stride4), sparse)
        memory = model.encode_memory(embedding, drawn(logits).sigmoid())
        return logits, iou, object_logit, memory, pointer


def memory_stages(model: Sam2VideoModel, features: dict[str, Tensor]) -> tuple[Stage, ...]:
    """Return both graphs.

    Args:
        model: SAM-2 with its memory.
        features: What the image stage gives for a frame, by name.
    """
    _, width, rows, columns = features["image_embedding"].shape
    spec = model.spec.memory
    return (
        Stage(
            name="memory",
            module=MemoryStage(model),
            examples={**features, "masks": torch.ones(2, 1, 16 * rows, 16 * columns)},
            outputs=("memory", "pointer"),
            varying={"masks": {0: "phrases"}},
        ),
        Stage(
            name="track",
            module=TrackStage(model),
            examples={
                **features,
                "memories": torch.zeros(2, 3, spec.width, rows, columns),
                "ages": torch.tensor([[0, 2, 1]] * 2),
                "pointers": torch.zeros(2, spec.pointers, width),
                "is_pointer": torch.ones(2, spec.pointers, dtype=torch.bool),
            },
            outputs=("logits", "iou", "object_logit", "memory", "pointer"),
            varying={
                "memories": {0: "phrases", 1: "memories"},
                "ages": {0: "phrases", 1: "memories"},
                "pointers": {0: "phrases"},
                "is_pointer": {0: "phrases"},
            },
        ),
    )


def _without_no_memory(model: Sam2VideoModel, image_embedding: Tensor) -> Tensor:
    """Take back what the image stage adds for frames that stand alone."""
    return image_embedding - model.no_mem_embed.reshape(1, -1, 1, 1)
