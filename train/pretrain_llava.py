"""A small LLaVA before SAM4MLLM's fine-tuning: one that sees, reads boxes off and answers.

The original starts from LLaVA-NeXT, which a large web has taught all this. A miniature learns it
from the world: many questions about one image share its tokens as a prefix, numbers start as waves,
and the places that write a number are told where to look, as BEiT-3's class token is in
`grounding`. These helps end here; SAM4MLLM itself has cross-entropy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..export.models.llama import DecoderLayer, LlamaModel, rotate, rotation
from ..export.models.llava_llama import LlavaLlama
from ..runtime.spec import ViewSpec
from ..runtime.systems.sam4mllm_text import opening
from .cache import SceneCache
from .grounding import box_iou
from .losses import IGNORED
from .numbers import NUMBERS, number_waves, soft_cross_entropy
from .packing import TRUNK, Tokens, pack
from .pretrain_clip import WAVE_WIDTH
from .talk import Talk, TalkMix
from .views import normalized

GAZE_WEIGHT = 0.2
"""Weight of where the words look."""
GAZE_LAYERS = 2
"""Words are told where to look in this many of the last layers,"""
GAZE_HEADS = 2
"""and in this many of their heads."""
WORD_SIZE = 0.05
"""Standard deviation of the first word embeddings; they are the output's too."""


class LlavaPretraining(nn.Module):
    """LLaVA with what it needs only now."""

    opening: Tensor
    """int64 (tokens,): what all chats begin with, up to the image."""
    number_ids: Tensor
    """int64 (NUMBERS,): the tokens of "000" to "999"."""
    number_values: Tensor
    """int64 (vocabulary,): the number that a token says, IGNORED for words."""

    def __init__(
        self, network: LlavaLlama, tokens: Tokens, system: str, *, held_out: int, is_compiled: bool
    ) -> None:
        """Put the parts together.

        Args:
            network: What learns; its vision tower stays as `pretrain_clip` has left it.
            tokens: The language model's.
            system: System message that all chats begin with.
            held_out: The last images of each batch are measured and not learned.
            is_compiled: Whether torch compiles the network.
        """
        super().__init__()
        self.network, self.held_out = network, held_out
        network.vision.vision_tower.requires_grad_(False)
        begin, _ = opening(system)
        self.register_buffer("opening", torch.tensor(tokens.encode(begin)), persistent=False)
        number_ids = torch.from_numpy(tokens.number_ids())
        self.register_buffer("number_ids", number_ids, persistent=False)
        values = torch.full((network.spec.language.vocabulary,), IGNORED)
        values[number_ids] = torch.arange(NUMBERS)
        self.register_buffer("number_values", values, persistent=False)
        self._states = torch.compile(self.states) if is_compiled else self.states

    def states(
        self, image: Tensor, ids: Tensor, turn: Tensor, branch: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the network makes of images and turns.

        Args:
            image: float (images, 3, H, W).
            ids: int64 (images, tokens); this and the next as in `packing.Packed`.
            turn: int64 (images, tokens).
            branch: int64 (images, tokens).
            place: int64 (images, tokens).

        Returns:
            The last states of the turns' tokens, float (images, tokens, width), and where they
            look, logits float (images, GAZE_LAYERS x GAZE_HEADS, tokens, patches).
        """
        model = self.network.language.model
        seen = self.network.vision(image)
        said = model.embed_tokens(self.opening).expand(len(image), -1, -1)
        tokens = torch.cat([said.to(seen.dtype), seen, model.embed_tokens(ids).to(seen.dtype)], 1)
        first = tokens.shape[1] - ids.shape[1]
        prefix = torch.arange(first, device=ids.device).expand(len(ids), -1)
        positions = torch.cat([prefix, first + place], dim=1)
        mask = shared_prefix_mask(turn, branch, prefix=first)
        turned = rotation(model.spec, positions)
        gazes = []
        for index, layer in enumerate(model.layers):
            if index >= len(model.layers) - GAZE_LAYERS:
                patches = slice(len(self.opening), first)
                gazes.append(word_gaze(cast(DecoderLayer, layer), tokens, turned, patches, first))
            tokens = layer(tokens, turned, mask)
        return model.norm(tokens)[:, first:], torch.cat(gazes, dim=1)

    def forward(
        self, image: Tensor, ids: Tensor, turn: Tensor, branch: Tensor, place: Tensor,
        labels: Tensor, looking: Tensor, looks: Tensor, boxes: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """Return the loss and its figures.

        Args:
            image: As in `states`, and so the next four.
            ids: int64.
            turn: int64.
            branch: int64.
            place: int64.
            labels: As in `packing.Packed`, and so the next three.
            looking: int64.
            looks: float.
            boxes: int64.
        """
        states, gaze = self._states(image, ids, turn, branch, place)
        end = (len(image) - self.held_out) * ids.shape[1]
        flat = labels.flatten()
        asked = (flat[:end] != IGNORED).nonzero().squeeze(1)
        head = self.network.language.lm_head
        said, figures = self.speech_loss(head(states.flatten(0, 1)[asked]).float(), flat[asked])
        logits = gaze.transpose(1, 2).flatten(0, 1)[looking].float()
        looks_off = -(looks[:, None] * logits.log_softmax(-1)).sum(-1).mean(-1)
        looks_off = looks_off[looking < end].mean()
        loss = said + GAZE_WEIGHT * looks_off
        figures |= {"gaze": looks_off.detach()}
        figures |= self._measure(states.flatten(0, 1), flat, boxes, end)
        return loss, figures | {"images": torch.tensor(float(len(image)))}

    def speech_loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return cross-entropy with soft targets among numbers, and its figures.

        Args:
            logits: float (n, vocabulary).
            labels: int64 (n,).
        """
        values = self.number_values[labels]
        is_number = values != IGNORED
        numbers = logits[is_number][:, self.number_ids]
        as_any = logits[is_number].logsumexp(-1) - numbers.logsumexp(-1)
        which = soft_cross_entropy(numbers, values[is_number].float())
        words = functional.cross_entropy(logits[~is_number], labels[~is_number])
        right = (logits[~is_number].argmax(-1) == labels[~is_number]).float().mean()
        figures = {"numbers": which.mean().detach(), "words": words.detach(), "right": right}
        return which.mean() + as_any.mean() + words, figures

    @torch.no_grad()
    def _measure(
        self, states: Tensor, labels: Tensor, boxes: Tensor, end: int
    ) -> dict[str, Tensor]:
        """Return the boxes' IoU where each number is guessed after the true ones before it."""
        places = boxes[:, None] + torch.arange(0, 8, 2, device=boxes.device)
        truth = self.number_values[labels[places]].float()
        rows = self.network.language.lm_head.weight[self.number_ids]
        guessed = (states[places].float() @ rows.float().T).argmax(-1).float()
        iou = box_iou(guessed, truth)
        is_learned = boxes < end
        return {"iou": _mean(iou[is_learned]), "val_iou": _mean(iou[~is_learned])}


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, len(values))


def shared_prefix_mask(turn: Tensor, branch: Tensor, *, prefix: int) -> Tensor:
    """Say what packed tokens see.

    Args:
        turn: int64 (rows, tokens), as in `packing.Packed`.
        branch: int64 (rows, tokens).
        prefix: Tokens in front of them, which all see.

    Returns:
        bool (rows, 1, prefix + tokens, prefix + tokens), true where the query of a row sees the key
        of a column.
    """
    is_same_turn = turn[:, :, None] == turn[:, None, :]
    is_on_way = (branch[:, None, :] == TRUNK) | (branch[:, :, None] == branch[:, None, :])
    mask = functional.pad(is_same_turn & is_on_way, (prefix, 0, prefix, 0), value=True)
    return mask.tril()[:, None]


def word_gaze(
    layer: DecoderLayer, tokens: Tensor, turned: tuple[Tensor, Tensor], patches: slice, first: int
) -> Tensor:
    """Return how much words attend to each patch in `layer`.

    Args:
        layer: One of the Llama's.
        tokens: float (images, all tokens, width), what goes into the layer.
        turned: All tokens' rotation.
        patches: Where the image's tokens stand.
        first: Where the words begin.

    Returns:
        Logits float (images, GAZE_HEADS, words, patches) of the first heads.
    """
    attention = layer.self_attn
    normed = layer.input_layernorm(tokens)
    width = attention.spec.head_width
    shared = attention.spec.heads // attention.spec.key_heads
    words = attention.q_proj(normed[:, first:]).unflatten(-1, (-1, width))[:, :, :GAZE_HEADS]
    query = rotate(words.transpose(1, 2), (turned[0][:, :, first:], turned[1][:, :, first:]))
    seen = turned[0][:, :, patches], turned[1][:, :, patches]
    key = attention.keys(normed[:, patches], seen).repeat_interleave(shared, dim=1)
    return (query * width**-0.5) @ key[:, :GAZE_HEADS].transpose(-2, -1)


@torch.no_grad()
def start_words(model: LlamaModel, tokens: Tokens) -> None:
    """Give the Llama a start in which near numbers are near and layers change nothing yet.

    Number tokens start as the waves in which the vision tower's patches tell their boxes, turned at
    random into the embedding. Layers that begin by adding nothing leave the small words audible.
    """
    nn.init.normal_(model.embed_tokens.weight, std=WORD_SIZE)
    turned = torch.linalg.qr(torch.randn(model.spec.width, WAVE_WIDTH))[0].T
    size = WORD_SIZE * (2 * model.spec.width / WAVE_WIDTH) ** 0.5
    rows = size * number_waves(WAVE_WIDTH) @ turned
    model.embed_tokens.weight[torch.from_numpy(tokens.number_ids())] = rows
    for layer in cast(Sequence[DecoderLayer], model.layers):
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)


def draw_talk(
    cache: SceneCache, view: ViewSpec, talk: Talk, mix: TalkMix, rng: np.random.Generator, *,
    scenes: int, images: int, held_out: int, tokens: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Draw scenes with turns about them.

    Args:
        cache: Scenes to draw from.
        view: The vision tower's view.
        talk: What is asked about a scene.
        mix: What of it.
        rng: Source of every choice.
        scenes: Learn from this many of the cache's scenes; the others are held out.
        images: Scenes in the batch to learn from.
        held_out: Scenes in the batch to measure.
        tokens: Tokens of the turns about each.

    Returns:
        The arguments of `LlavaPretraining.forward` by name.
    """
    chosen = np.concatenate([
        rng.integers(scenes, size=images), rng.integers(scenes, len(cache), size=held_out)
    ])  # fmt: skip
    turns = [talk.turns(int(scene), rng, mix, tokens=tokens) for scene in chosen]
    packed = pack(turns, width=tokens, patches=talk.grid_hw[0] * talk.grid_hw[1])
    return {"image": normalized(cache.views[view.name][chosen], view)} | {
        name: torch.from_numpy(value) for name, value in packed._asdict().items()
    }
