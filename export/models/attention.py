"""Scaled dot-product attention in the explicit form that every engine fuses safely."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["attend"]


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, heads: int, bias: Tensor | None = None
) -> Tensor:
    """Attend with `heads` heads, softmax over the keys.

    The scale goes onto the query before the product: TensorRT fuses that form, and its fused FP16
    attention was measured at cosine 0.06 with PyTorch's own decomposition.

    Args:
        query: float (batch, queries, width).
        key: float (batch, keys, width).
        value: float (batch, keys, width).
        heads: Divides the width.
        bias: float, broadcastable to (batch, heads, queries, keys); added before the softmax.

    Returns:
        float (batch, queries, width).
    """
    query = _split(query, heads) * (query.shape[-1] // heads) ** -0.5
    logits = query @ _split(key, heads).transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ _split(value, heads)).transpose(1, 2).flatten(2)


def _split(tokens: Tensor, heads: int) -> Tensor:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)
