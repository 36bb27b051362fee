"""BEiT-3, the multimodal encoder: joint attention over image and words, an expert for each.

Sources: BEiT-3 (arXiv 2208.10442) and its reference implementation in torchscale 0.2 (Multiway
transformer with sub-LayerNorm). Parameter names are the reference's without their `beit3.` prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend

__all__ = ["BEIT3_SPECS", "FIRST_POSITION", "BEiT3", "BEiT3Spec"]

FIRST_POSITION = 2
"""Row of the first token in both position tables: fairseq keeps rows 0 and 1 for padding."""
HIDDEN = -1e4
"""Logit that hides a padded word; its weight is zero in FP32 and FP16 alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BEiT3Spec:
    """Sizes of one BEiT-3."""

    width: int
    """Channels of every token."""
    depth: int
    """Encoder layers."""
    heads: int
    """Attention heads; divides the width."""
    ffn_width: int
    """Hidden channels of the feed-forward network."""
    image_hw: tuple[int, int]
    """Height and width of the image view in pixels."""
    patch: int
    """Side of a square patch in pixels."""
    vocabulary: int
    """Rows of the word embedding."""
    max_positions: int
    """Rows of the word position table; the first two are never used."""
    pad_id: int
    """Token id that pads short phrases."""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_hw[0] // self.patch, self.image_hw[1] // self.patch

    @property
    def image_tokens(self) -> int:
        """Number of image tokens, with the class token first."""
        rows, columns = self.grid_hw
        return 1 + rows * columns


BEIT3_SPECS = {
    "base": BEiT3Spec(
        width=768, depth=12, heads=12, ffn_width=3072, image_hw=(224, 224), patch=16,
        vocabulary=64010, max_positions=1024, pad_id=1,
    ),
    "large": BEiT3Spec(
        width=1024, depth=24, heads=16, ffn_width=4096, image_hw=(224, 224), patch=16,
        vocabulary=64010, max_positions=1024, pad_id=1,
    ),
    "mini": BEiT3Spec(
        width=192, depth=6, heads=6, ffn_width=576, image_hw=(96, 120), patch=12,
        vocabulary=512, max_positions=50, pad_id=1,
    ),
}  # fmt: skip


Pair = tuple[Tensor, Tensor]
"""Image tokens, the class token first, and words: float (batch, tokens, channels) each."""


class Multiway(nn.Module):
    """Two experts of one kind: `A` for the image tokens, `B` for the words."""

    def __init__(self, expert: type[nn.Module], *args: int, eps: float | None = None) -> None:
        """Build both experts as `expert(*args)`."""
        super().__init__()
        options = {} if eps is None else {"eps": eps}
        self.A = expert(*args, **options)
        self.B = expert(*args, **options)

    def forward(self, tokens: Pair) -> Pair:
        """Apply `A` to the image tokens and `B` to the words; shapes are the experts'."""
        image, words = tokens
        return self.A(image), self.B(words)


class SelfAttention(nn.Module):
    """Joint attention with expert projections and a LayerNorm before the output projection."""

    def __init__(self, spec: BEiT3Spec) -> None:
        """Build the four projections of `spec.width` channels."""
        super().__init__()
        self.heads = spec.heads
        self.image_tokens = spec.image_tokens
        self.q_proj = Multiway(nn.Linear, spec.width, spec.width)
        self.k_proj = Multiway(nn.Linear, spec.width, spec.width)
        self.v_proj = Multiway(nn.Linear, spec.width, spec.width)
        self.out_proj = Multiway(nn.Linear, spec.width, spec.width)
        self.inner_attn_ln = Multiway(nn.LayerNorm, spec.width, eps=1e-5)

    def forward(self, tokens: Pair, bias: Tensor) -> Pair:
        """Map tokens to the same shapes; `bias` (batch, 1, 1, all tokens) hides padded words."""
        mixed = self._attend(torch.cat(self.q_proj(tokens), dim=1), tokens, bias)
        pair = mixed[:, : self.image_tokens], mixed[:, self.image_tokens :]
        return self.out_proj(self.inner_attn_ln(pair))

    def class_token(self, tokens: Pair, bias: Tensor) -> Tensor:
        """Return the class token's row of `forward`, float (batch, 1, width), and no other."""
        mixed = self._attend(self.q_proj.A(tokens[0][:, :1]), tokens, bias)
        return self.out_proj.A(self.inner_attn_ln.A(mixed))

    def _attend(self, query: Tensor, tokens: Pair, bias: Tensor) -> Tensor:
        key = torch.cat(self.k_proj(tokens), dim=1)
        value = torch.cat(self.v_proj(tokens), dim=1)
        return attend(query, key, value, heads=self.heads, bias=bias)


class FeedForward(nn.Module):
    """One expert's feed-forward network with a LayerNorm after the activation."""

    def __init__(self, width: int, ffn_width: int) -> None:
        """Build the two linear layers."""
        super().__init__()
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.ffn_layernorm = nn.LayerNorm(ffn_width, eps=1e-5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (batch, tokens, width) to the same shape."""
        return self.fc2(self.ffn_layernorm(functional.gelu(self.fc1(tokens))))


class EncoderLayer(nn.Module):
    """Pre-norm layer: joint attention, then each token's expert network."""

    def __init__(self, spec: BEiT3Spec) -> None:
        """Build one layer."""
        super().__init__()
        self.self_attn = SelfAttention(spec)
        self.self_attn_layer_norm = Multiway(nn.LayerNorm, spec.width, eps=1e-5)
        self.ffn = Multiway(FeedForward, spec.width, spec.ffn_width)
        self.final_layer_norm = Multiway(nn.LayerNorm, spec.width, eps=1e-5)

    def forward(self, tokens: Pair, bias: Tensor) -> Pair:
        """Map all tokens to the same shapes."""
        tokens = _sum(tokens, self.self_attn(self.self_attn_layer_norm(tokens), bias))
        return _sum(tokens, self.ffn(self.final_layer_norm(tokens)))

    def class_token(self, tokens: Pair, bias: Tensor) -> Tensor:
        """Return the class token's row of `forward`, float (batch, 1, width), and no other."""
        mixed = self.self_attn.class_token(self.self_attn_layer_norm(tokens), bias)
        first = tokens[0][:, :1] + mixed
        return first + self.ffn.A(self.final_layer_norm.A(first))


def _sum(first: Pair, second: Pair) -> Pair:
    return first[0] + second[0], first[1] + second[1]


class Positions(nn.Module):
    """Position tables of both experts."""

    def __init__(self, spec: BEiT3Spec) -> None:
        """Build a row for each image token and `spec.max_positions` rows for the words."""
        super().__init__()
        self.A = nn.Embedding(FIRST_POSITION + spec.image_tokens, spec.width)
        self.B = nn.Embedding(spec.max_positions, spec.width)

    def forward(self, tokens: Pair) -> Pair:
        """Add a row to each token, from `FIRST_POSITION` on."""
        image, words = tokens
        end = FIRST_POSITION + words.shape[1]
        return image + self.A.weight[FIRST_POSITION:], words + self.B.weight[FIRST_POSITION:end]


class Encoder(nn.Module):
    """The stack of layers with its position tables."""

    def __init__(self, spec: BEiT3Spec) -> None:
        """Build `spec.depth` layers."""
        super().__init__()
        self.image_tokens = spec.image_tokens
        self.embed_positions = Positions(spec)
        self.layers = nn.ModuleList(EncoderLayer(spec) for _ in range(spec.depth))
        self.layer_norm = Multiway(nn.LayerNorm, spec.width, eps=1e-5)

    def place(self, tokens: Pair, is_padding: Tensor) -> tuple[Pair, Tensor]:
        """Add positions and hide padding.

        Args:
            tokens: Image tokens and words.
            is_padding: bool (batch, words).

        Returns:
            The tokens, padded words being zero, and the bias that hides these as keys, float
            (batch, 1, 1, image tokens + words).
        """
        image, words = self.embed_positions(tokens)
        words = words * (~is_padding).unsqueeze(-1).to(words.dtype)
        hidden = functional.pad(is_padding.to(words.dtype), (self.image_tokens, 0))
        return (image, words), (hidden * HIDDEN)[:, None, None, :]


class BEiT3(nn.Module):
    """Image view and phrase in, joint states out."""

    def __init__(self, spec: BEiT3Spec) -> None:
        """Build the networks of `spec` with random weights."""
        super().__init__()
        self.spec = spec
        self.text_embed = nn.Embedding(spec.vocabulary, spec.width)
        self.vision_embed = VisionEmbedding(spec)
        self.encoder = Encoder(spec)

    def forward(self, image: Tensor, token_ids: Tensor) -> Tensor:
        """Encode every token.

        Args:
            image: float (1 or batch, 3, height, width); one image is shared by all phrases.
            token_ids: int64 (batch, tokens), padded on the right with `spec.pad_id`.

        Returns:
            float (batch, image tokens + tokens, width), the class token first.
        """
        tokens, bias = self.embed(image, token_ids)
        for layer in self.encoder.layers:
            tokens = layer(tokens, bias)
        return torch.cat(self.encoder.layer_norm(tokens), dim=1)

    def class_token(self, image: Tensor, token_ids: Tensor) -> Tensor:
        """Return row 0 of `forward` as float (batch, 1, width), skipping what it does not need.

        The last layer's words and patches are read as keys and values only, so their queries and
        feed-forward networks are dead; the result is exact.
        """
        tokens, bias = self.embed(image, token_ids)
        *body, last = self.encoder.layers
        for layer in body:
            tokens = layer(tokens, bias)
        return self.encoder.layer_norm.A(cast(EncoderLayer, last).class_token(tokens, bias))

    def embed(self, image: Tensor, token_ids: Tensor) -> tuple[Pair, Tensor]:
        """Return what enters the first layer; arguments as in `forward`, result as in `place`."""
        patches = self.vision_embed(image).expand(token_ids.shape[0], -1, -1)
        is_padding = token_ids == self.spec.pad_id
        return self.encoder.place((patches, self.text_embed(token_ids)), is_padding)


class VisionEmbedding(nn.Module):
    """Patches of the image view as tokens, behind a class token."""

    def __init__(self, spec: BEiT3Spec) -> None:
        """Build the patch projection, the class token and the pre-training's mask token."""
        super().__init__()
        self.proj = nn.Conv2d(3, spec.width, kernel_size=spec.patch, stride=spec.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, spec.width))

    def forward(self, image: Tensor) -> Tensor:
        """Map float (batch, 3, height, width) to float (batch, 1 + patches, width)."""
        patches = self.proj(image).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
