"""From a Hugging Face folder to a GGUF file, with an adapter merged into it or beside it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...runtime.errors import CheckpointError, UnknownNameError
from ...runtime.language.gguf_file import LanguageFile, LanguageSpec
from ..weights import find_weight_files, map_tensors
from .adapter import Adapter, open_adapter
from .layout import Layout, read_layout
from .names import Target, language_name, language_tensors, targets
from .vocabulary import Vocabulary, read_vocabulary
from .writing import FILE_FORMATS, Piece, write_gguf

__all__ = ["DTYPES", "convert", "convert_adapter", "language_adapter", "rounded"]

_LOG = logging.getLogger("saymask")

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Formats of the matrices that a checkpoint is converted to, before any are quantized."""


def convert(
    folder: Path,
    out: Path,
    *,
    adapter: Path | None = None,
    format: str = "F16",
    layout: Layout | None = None,
    controls: Collection[str] = (),
) -> LanguageSpec:
    """Write a checkpoint's language model as GGUF, one tensor in memory at a time.

    Args:
        folder: Weights, vocabulary and config.json; a vision tower in it is passed over by name.
        out: The file, which is replaced if it is there.
        adapter: Folder of a LoRA that is merged in float32 before anything is rounded; a warning is
            logged where it names another model, see `Adapter.doubt`.
        format: Key of `DTYPES`; norms and biases stay F32.
        layout: What the model is, where config.json doesn't say it.
        controls: Added tokens that become controls, see `read_vocabulary`.

    Raises:
        CheckpointError: Weights, vocabulary or adapter are missing, damaged or do not fit.
        MissingExtraError: gguf or sentencepiece is not installed.
        OSError: The file can't be written.
        UnknownNameError: There is no such format.
    """
    if format not in DTYPES:
        raise UnknownNameError("format", format, DTYPES)
    layout = layout or read_layout(folder)
    vocabulary = read_vocabulary(folder, layout, controls=controls)
    tensors = language_tensors(map_tensors(find_weight_files(folder)), layout, str(folder))
    change = adapter and language_adapter(adapter, layout)
    if change and (doubt := change.doubt(folder)):
        _LOG.warning("%s", doubt)
    pieces = [_frequencies(layout)] if layout.frequency_factors else []
    for name, target in targets(layout).items():
        kind = format if len(target.shape) > 1 else "F32"
        make = partial(_make, name, tensors[name], target, DTYPES[kind], change)
        pieces.append(Piece(name=target.name, shape=target.shape, format=kind, make=make))
    describe = partial(_describe, layout=layout, vocabulary=vocabulary, format=format)
    write_gguf(out, layout.architecture, describe, pieces)
    return LanguageFile(out).spec


def convert_adapter(adapter: Path, out: Path, *, layout: Layout) -> None:
    """Write a LoRA as a GGUF adapter, which llama.cpp adds to a model while it runs.

    Args:
        adapter: The folder that PEFT saved; its changes to other parts than the language model are
            left out.
        out: The file, which is replaced if it is there.
        layout: The model that it is for.

    Raises:
        CheckpointError: The adapter is damaged, or for another model, or more than pairs.
        MissingExtraError: gguf is not installed.
        OSError: The file can't be written.
    """
    change = language_adapter(adapter, layout)
    if change.replacements:
        raise CheckpointError(
            f"an adapter on its own must consist of pairs; the one in {adapter} holds whole "
            f"tensors too: {', '.join(change.replacements)}; merge it into the model"
        )
    pieces = []
    for name, delta in change.deltas.items():
        target = targets(layout)[name]
        up = _ordered(delta.up.float(), target) * delta.scale
        for side, tensor in (("a", delta.down.float()), ("b", up)):
            pieces.append(
                Piece(
                    name=f"{target.name}.lora_{side}",
                    shape=tuple(tensor.shape),
                    format="F32",
                    make=tensor.contiguous().numpy,
                )
            )
    write_gguf(out, layout.architecture, _describe_adapter, pieces)


def language_adapter(folder: Path, layout: Layout) -> Adapter:
    """Open an adapter and leave out what it does to other parts than the language model.

    Raises:
        CheckpointError: It is damaged, or for another model.
    """
    found = open_adapter(folder)
    named = replace(
        found,
        deltas={name: it for key, it in found.deltas.items() if (name := language_name(key))},
        replacements={
            name: it for key, it in found.replacements.items() if (name := language_name(key))
        },
    )
    named.check({name: target.shape for name, target in targets(layout).items()})
    return named


def rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in another type.

    Raises:
        CheckpointError: Some of it is not finite in that type; the message has its `name`.
    """
    found = tensor.to(dtype).contiguous()
    if not found.isfinite().all():
        raise CheckpointError(
            f"weights must be finite as {dtype}; some of {name} are not; take format BF16 or F32, "
            "or copy the checkpoint again"
        )
    return found


def _frequencies(layout: Layout) -> Piece:
    factors = np.array(layout.frequency_factors, np.float32)
    return Piece(name="rope_freqs.weight", shape=factors.shape, format="F32", make=lambda: factors)


def _make(
    name: str, tensor: Tensor, target: Target, dtype: torch.dtype, change: Adapter | None
) -> np.ndarray:
    """Return a tensor as it is written: changed, its rows ordered, then rounded."""
    whole = change.merged(name, tensor) if change else tensor
    found = rounded(name, _ordered(whole, target), dtype)
    return (found.view(torch.int16) if dtype == torch.bfloat16 else found).numpy()


def _ordered(tensor: Tensor, target: Target) -> Tensor:
    """Move the halves of each head's rows to neighbors, where llama.cpp rotates neighbors."""
    if not target.heads:
        return tensor
    halves = tensor.unflatten(0, (target.heads, 2, -1))
    return halves.transpose(1, 2).flatten(0, 2)


def _describe(writer: Any, *, layout: Layout, vocabulary: Vocabulary, format: str) -> None:
    writer.add_context_length(layout.trained_tokens)
    writer.add_embedding_length(layout.width)
    writer.add_block_count(layout.layers)
    writer.add_feed_forward_length(layout.hidden)
    writer.add_head_count(layout.heads)
    writer.add_head_count_kv(layout.kv_heads)
    writer.add_key_length(layout.head_width)
    writer.add_value_length(layout.head_width)
    writer.add_rope_dimension_count(layout.head_width)
    writer.add_layer_norm_rms_eps(layout.norm_epsilon)
    writer.add_rope_freq_base(layout.rope_base)
    if layout.linear_factor != 1:
        writer.add_string(f"{layout.architecture}.rope.scaling.type", "linear")
        writer.add_rope_scaling_factor(layout.linear_factor)
    writer.add_vocab_size(layout.vocabulary)
    writer.add_file_type(FILE_FORMATS[format])
    vocabulary.describe(writer)


def _describe_adapter(writer: Any) -> None:
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    # llama.cpp multiplies by alpha / rank unless alpha is 0; here the scale is in lora_b.
    writer.add_float32("adapter.lora.alpha", 0.0)
