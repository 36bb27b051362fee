"""Llama, the language model: rotary positions, grouped keys, gated MLP.

Sources: LLaMA (arXiv 2302.13971) and Llama 3 (arXiv 2407.21783). Parameter names, and the halves
that the rotation pairs, are those of Hugging Face's LlamaForCausalLM.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LLAMA_SPECS", "Llama", "LlamaSpec", "causal_mask", "rotation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaSpec:
    """Sizes of one Llama."""

    width: int
    """Channels of a token."""
    layers: int
    """Layers."""
    heads: int
    """Heads of the queries; divides the width."""
    key_heads: int
    """Heads of keys and values; divides `heads`."""
    mlp_width: int
    """Hidden channels of the MLPs."""
    vocabulary: int
    """Rows of the word embedding."""
    rope_theta: float
    """Base of the rotation's rates."""
    norm_epsilon: float
    """Added to the mean square before its root."""
    max_positions: int
    """Longest sequence in tokens."""
    is_tied: bool
    """Whether the word embedding is also the output's."""

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.width // self.heads


LLAMA_SPECS = {
    "llama-3-8b": LlamaSpec(
        width=4096, layers=32, heads=32, key_heads=8, mlp_width=14336, vocabulary=128256,
        rope_theta=500000.0, norm_epsilon=1e-5, max_positions=8192, is_tied=False,
    ),
    "mini": LlamaSpec(
        width=256, layers=4, heads=4, key_heads=2, mlp_width=768, vocabulary=2304,
        rope_theta=10000.0, norm_epsilon=1e-5, max_positions=1024, is_tied=True,
    ),
}  # fmt: skip

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, float (batch or 1, 1, tokens, head width) each."""


class RmsNorm(nn.Module):
    """Division by the root of the mean square, in float32, then a gain for each channel."""

    def __init__(self, width: int, epsilon: float) -> None:
        """Build gains of one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (..., width) to the same shape and type."""
        values = tokens.float()
        scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (values * scale).to(tokens.dtype)


class SelfAttention(nn.Module):
    """Attention whose queries share keys and values in groups."""

    def __init__(self, spec: LlamaSpec) -> None:
        """Build the four projections, none with a bias."""
        super().__init__()
        self.spec = spec
        key_width = spec.key_heads * spec.head_width
        self.q_proj = nn.Linear(spec.width, spec.width, bias=False)
        self.k_proj = nn.Linear(spec.width, key_width, bias=False)
        self.v_proj = nn.Linear(spec.width, key_width, bias=False)
        self.o_proj = nn.Linear(spec.width, spec.width, bias=False)

    def forward(self, tokens: Tensor, turn: Rotation, mask: Tensor) -> Tensor:
        """Map float (batch, tokens, width) to the same shape; see `Llama.forward`."""
        query = rotate(self._split(self.q_proj(tokens)), turn) * self.spec.head_width**-0.5
        shared = self.spec.heads // self.spec.key_heads
        key, value = (
            each.repeat_interleave(shared, dim=1)
            for each in (self.keys(tokens, turn), self._split(self.v_proj(tokens)))
        )
        logits = (query @ key.transpose(-2, -1)).float().masked_fill(~mask, float("-inf"))
        mixed = logits.softmax(-1).to(value.dtype) @ value
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def keys(self, tokens: Tensor, turn: Rotation) -> Tensor:
        """Return the turned keys, float (batch, key heads, tokens, head width)."""
        return rotate(self._split(self.k_proj(tokens)), turn)

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, self.spec.head_width)).transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU: one map gates another."""

    def __init__(self, spec: LlamaSpec) -> None:
        """Build the three maps, none with a bias."""
        super().__init__()
        self.gate_proj = nn.Linear(spec.width, spec.mlp_width, bias=False)
        self.up_proj = nn.Linear(spec.width, spec.mlp_width, bias=False)
        self.down_proj = nn.Linear(spec.mlp_width, spec.width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float (..., width) to the same shape."""
        return self.down_proj(functional.silu(self.gate_proj(tokens)) * self.up_proj(tokens))


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, spec: LlamaSpec) -> None:
        """Build one layer."""
        super().__init__()
        self.input_layernorm = RmsNorm(spec.width, spec.norm_epsilon)
        self.self_attn = SelfAttention(spec)
        self.post_attention_layernorm = RmsNorm(spec.width, spec.norm_epsilon)
        self.mlp = MLP(spec)

    def forward(self, tokens: Tensor, turn: Rotation, mask: Tensor) -> Tensor:
        """Map float (batch, tokens, width) to the same shape; see `Llama.forward`."""
        tokens = tokens + self.self_attn(self.input_layernorm(tokens), turn, mask)
        return tokens + self.mlp(self.post_attention_layernorm(tokens))


class LlamaModel(nn.Module):
    """Word embedding, layers and the last norm."""

    def __init__(self, spec: LlamaSpec) -> None:
        """Build the parts."""
        super().__init__()
        self.spec = spec
        self.embed_tokens = nn.Embedding(spec.vocabulary, spec.width)
        self.layers = nn.ModuleList(DecoderLayer(spec) for _ in range(spec.layers))
        self.norm = RmsNorm(spec.width, spec.norm_epsilon)

    def forward(self, embeddings: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Return the last states after the norm; arguments as in `Llama.forward`."""
        turn = rotation(self.spec, positions)
        tokens = embeddings
        for layer in self.layers:
            tokens = layer(tokens, turn, mask)
        return self.norm(tokens)


class Llama(nn.Module):
    """Embeddings of words and images in, a guess of each next token out."""

    def __init__(self, spec: LlamaSpec) -> None:
        """Build the networks of `spec` with random weights."""
        super().__init__()
        self.model = LlamaModel(spec)
        self.lm_head = nn.Linear(spec.width, spec.vocabulary, bias=False)
        if spec.is_tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, embeddings: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Guess the next token at every place.

        Args:
            embeddings: float (batch, tokens, width).
            positions: int64 (batch or 1, tokens), places in the text, from 0.
            mask: bool, broadcastable to (batch, heads, tokens, tokens), true where the query of a
                row may see the key of a column; `causal_mask` for plain text.

        Returns:
            Logits float (batch, tokens, vocabulary).
        """
        return self.lm_head(self.model(embeddings, positions, mask))


def rotation(spec: LlamaSpec, positions: Tensor) -> Rotation:
    """Return by how much each channel turns at int64 (batch, tokens) positions."""
    half = torch.arange(0, spec.head_width, 2, device=positions.device) / spec.head_width
    angles = positions[..., None] * spec.rope_theta**-half
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, turn: Rotation) -> Tensor:
    """Turn float (batch, heads, tokens, head width), channel i with channel i + half."""
    cosine, sine = (part.to(heads.dtype) for part in turn)
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat([-second, first], dim=-1) * sine


def causal_mask(tokens: int) -> Tensor:
    """Return bool (tokens, tokens) that shows each token itself and what stands before it."""
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()
