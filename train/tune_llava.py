"""A LLaVA that learns SAM4MLLM's conversations through adapters, by the words' cross-entropy alone.

Source: SAM4MLLM (arXiv 2409.10542), section 3.3: "only text loss".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..export.models.llava_llama import LlavaLlama
from ..runtime.spec import ViewSpec
from ..runtime.systems import sam4mllm_protocol as protocols
from ..runtime.systems.sam4mllm_text import NO, YES, Piece, opening
from .cache import SceneCache
from .conversations import ConversationRecipe, Conversations
from .loop import LoopRecipe
from .lora import LoraRecipe
from .losses import IGNORED
from .packing import Tokens, pack
from .pretrain_llava import shared_prefix_mask
from .views import normalized


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRecipe:
    """How a LLaVA is tuned."""

    conversations: ConversationRecipe
    """What it learns to say."""
    lora: LoraRecipe
    """Sizes of the adapters."""
    loop: LoopRecipe
    """How long and how fast."""
    images: int
    """Scenes in a batch."""
    tokens: int
    """Longest talk about a scene; what goes beyond is left out."""


MINIATURE = TuningRecipe(
    conversations=ConversationRecipe(),
    lora=LoraRecipe(rank=64, alpha=128, dropout=0.05),
    loop=LoopRecipe(steps=1500, learning_rate=1e-3, weight_decay=1e-3, save_every=100),
    images=12,
    tokens=640,
)
"""What ships: a small network that has seen little learns faster and longer."""
PAPER = TuningRecipe(
    conversations=ConversationRecipe(protocol=protocols.PAPER, listed=0.0, margin=0.0),
    lora=LoraRecipe(rank=256, alpha=128, dropout=0.05),
    loop=LoopRecipe(
        steps=2340, warmup_steps=70, learning_rate=1e-5, optimizer="lion", schedule="cosine",
        weight_decay=0.1, batches=64, save_every=100,
    ),
    images=2,
    tokens=2048,
)  # fmt: skip
"""Section 4.1: Lion, three epochs of 100,000 images, 128 of them a step, 3 % of warm-up. Each point
is asked about by itself (section 3.2)."""
RELEASED = TuningRecipe(
    conversations=ConversationRecipe(
        protocol=protocols.RELEASED, places="poisson", listed=1.0, margin=0.0, requests=5
    ),
    lora=LoraRecipe(rank=128, alpha=128, dropout=0.05),
    loop=LoopRecipe(
        steps=3750, warmup_steps=38, learning_rate=1e-4, weight_decay=1e-3, batches=80,
        save_every=100,
    ),
    images=1,
    tokens=1536,
)  # fmt: skip
"""The published code: AdamW, 80 images a step, a rate that climbs for 1 % of the steps."""


class LlavaTuning(nn.Module):
    """A LLaVA with adapters, on images with packed turns."""

    opening: Tensor
    """int64 (tokens,): what all chats begin with, up to the image."""
    verdicts: Tensor
    """int64 (2,): the tokens that a point is answered with."""

    def __init__(self, network: LlavaLlama, tokens: Tokens, system: str) -> None:
        """Take a network that `add_lora` has prepared.

        Args:
            network: What learns.
            tokens: Its vocabulary.
            system: System message that all chats begin with.
        """
        super().__init__()
        self.network = network
        begin, _ = opening(system)
        self.register_buffer("opening", torch.tensor(tokens.encode(begin)), persistent=False)
        words = [Piece(text=word, is_template=True, is_answer=True) for word in (YES, NO)]
        verdicts = torch.tensor([tokens.encode(word)[0] for word in words])
        self.register_buffer("verdicts", verdicts, persistent=False)

    def forward(
        self, image: Tensor, ids: Tensor, turn: Tensor, branch: Tensor, place: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """Return the loss and its figures.

        Args:
            image: float (images, 3, H, W).
            ids: int64 (images, tokens); this and the next as in `packing.Packed`.
            turn: int64 (images, tokens).
            branch: int64 (images, tokens).
            place: int64 (images, tokens).
            labels: int64 (images, tokens).
        """
        language = self.network.language
        words = language.model.embed_tokens
        seen = self.network.vision(image)
        begin = words(self.opening).expand(len(image), -1, -1)
        tokens = torch.cat([begin.to(seen.dtype), seen, words(ids).to(seen.dtype)], dim=1)
        prefix = tokens.shape[1] - ids.shape[1]
        before = torch.arange(prefix, device=ids.device).expand(len(ids), -1)
        positions = torch.cat([before, prefix + place], dim=1)
        mask = shared_prefix_mask(turn, branch, prefix=prefix)
        states = language.model(tokens, positions, mask)[:, prefix:]
        is_asked = labels != IGNORED
        logits, wanted = language.lm_head(states[is_asked]).float(), labels[is_asked]
        is_right = (logits.argmax(-1) == wanted).float()
        is_verdict = torch.isin(wanted, self.verdicts)
        loss = functional.cross_entropy(logits, wanted)
        images = torch.tensor(float(len(image)))
        # A batch without points has no accuracy of them; zero would pull the mean down.
        points = is_right[is_verdict].mean() if is_verdict.any() else is_right.new_tensor(0.5)
        return loss, {"right": is_right.mean(), "points": points, "images": images}


def draw_conversations(
    conversations: Conversations,
    cache: SceneCache,
    view: ViewSpec,
    rng: np.random.Generator,
    *,
    images: int,
    tokens: int,
) -> dict[str, Tensor]:
    """Draw scenes and talk about them.

    Args:
        conversations: What is said.
        cache: Scenes.
        view: The vision tower's.
        rng: Source of every choice.
        images: Scenes in the batch.
        tokens: Longest talk about each.

    Returns:
        The arguments of `LlavaTuning.forward` by name.
    """
    chosen = rng.choice(conversations.scenes, size=images)
    turns = [conversations.about(int(scene), rng) for scene in chosen]
    packed = pack(turns, width=tokens, patches=0)
    names = ("ids", "turn", "branch", "place", "labels")
    return {"image": normalized(cache.views[view.name][chosen], view)} | {
        name: torch.from_numpy(getattr(packed, name)) for name in names
    }
