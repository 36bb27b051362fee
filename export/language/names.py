"""What a language model's tensors are called in a checkpoint and in GGUF, and their shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...runtime.errors import CheckpointError
from ..dialect import match
from .layout import Layout

__all__ = ["Target", "language_name", "language_tensors", "targets"]

RENAMES = (
    (r"^language_model\.", ""),
    (r"^model\.language_model\.", "model."),
)
"""Pattern and replacement: what multimodal models put before their language model's names."""

BESIDE = (
    r"^(model\.)?(vision_tower|vision_model|vision_resampler|visual)\.",
    r"^(model\.)?(mm_projector|multi_modal_projector|image_newline)\b",
    r"^(model\.)?(visual_model|mask_decoder|text_hidden_fcs)\.",
)
"""Patterns of names that belong to other parts of a multimodal system."""

_MISFITS_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A tensor of a GGUF file."""

    name: str
    """What GGUF calls it."""
    shape: tuple[int, ...]
    """Rows first, as in the checkpoint."""
    heads: int
    """Heads whose rows change their order; 0 where all stay."""


def targets(layout: Layout) -> dict[str, Target]:
    """Return what a model consists of, by the names in a checkpoint."""
    width, table = layout.width, (layout.vocabulary, layout.width)
    found = {"model.embed_tokens.weight": _keep("token_embd.weight", *table)}
    for at in range(layout.layers):
        for name, target in _block(layout, f"blk.{at}.").items():
            found[f"model.layers.{at}.{name}"] = target
    found["model.norm.weight"] = _keep("output_norm.weight", width)
    if not layout.is_tied:
        found["lm_head.weight"] = _keep("output.weight", *table)
    return found


def language_name(name: str) -> str | None:
    """Return a stored name without what stands before it, or None where it is of another part."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return None if any(re.search(pattern, name) for pattern in BESIDE) else name


def language_tensors(
    stored: Sequence[tuple[str, Tensor]], layout: Layout, source: str
) -> dict[str, Tensor]:
    """Find each tensor of the language model once, among all that a checkpoint holds.

    Args:
        stored: Names and tensors; those of a vision tower and the like are passed over.
        layout: What the model must be.
        source: Where they come from, for errors.

    Returns:
        Tensors by the names that `targets` has.

    Raises:
        CheckpointError: A name or a shape does not fit; the misfits are listed.
    """
    wanted = {
        name: torch.empty(target.shape, device="meta") for name, target in targets(layout).items()
    }
    named = [(language_name(name), tensor) for name, tensor in stored]
    kept = [(name, tensor) for name, tensor in named if name is not None]
    if layout.is_tied:
        kept = _without_copy(kept)
    found = match(kept, wanted)
    if found.misfits:
        raise CheckpointError(
            f"the weights in {source} must fit a {layout.architecture} model of {layout.layers} "
            f"layers name by name; {len(found.misfits)} do not: "
            f"{'; '.join(found.misfits[:_MISFITS_SHOWN])}; copy them again, or check config.json"
        )
    return found.tensors


def _without_copy(stored: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Leave out an output matrix that equals the embedding table that it is tied to."""
    table = dict(stored).get("model.embed_tokens.weight")
    return [
        (name, tensor)
        for name, tensor in stored
        if not (name == "lm_head.weight" and table is not None and torch.equal(tensor, table))
    ]


def _block(layout: Layout, block: str) -> dict[str, Target]:
    width, hidden = layout.width, layout.hidden
    queries, keys = layout.heads * layout.head_width, layout.kv_heads * layout.head_width
    # llama.cpp rotates neighbors in LLaMA's heads and halves in Qwen2's, checkpoints halves.
    is_paired = layout.architecture == "llama"
    found = {
        "input_layernorm.weight": _keep(f"{block}attn_norm.weight", width),
        "post_attention_layernorm.weight": _keep(f"{block}ffn_norm.weight", width),
        "self_attn.o_proj.weight": _keep(f"{block}attn_output.weight", width, queries),
        "mlp.gate_proj.weight": _keep(f"{block}ffn_gate.weight", hidden, width),
        "mlp.up_proj.weight": _keep(f"{block}ffn_up.weight", hidden, width),
        "mlp.down_proj.weight": _keep(f"{block}ffn_down.weight", width, hidden),
    }
    for letter, rows, heads in (
        ("q", queries, layout.heads * is_paired),
        ("k", keys, layout.kv_heads * is_paired),
        ("v", keys, 0),
    ):
        theirs, ours = f"self_attn.{letter}_proj", f"{block}attn_{letter}"
        found[f"{theirs}.weight"] = Target(name=f"{ours}.weight", shape=(rows, width), heads=heads)
        if layout.architecture == "qwen2":
            found[f"{theirs}.bias"] = _keep(f"{ours}.bias", rows)
    return found


def _keep(name: str, *shape: int) -> Target:
    return Target(name=name, shape=shape, heads=0)
