"""What a language model's config says: its sizes, and how its positions are scaled."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.errors import CheckpointError
from ..models.llama import LlamaSpec

__all__ = ["MODEL_TYPES", "Layout", "layout_from_config", "layout_from_spec", "read_layout"]

MODEL_TYPES = {
    "llama": "llama",
    "llava_llama": "llama",
    "llava_qwen": "qwen2",
    "qwen2": "qwen2",
}
"""A config's "model_type" -> the architecture in GGUF."""

_UNSUPPORTED = {
    "attention_bias": False,
    "hidden_act": "silu",
    "mlp_bias": False,
    "pretraining_tp": 1,
    "use_sliding_window": False,
}
"""What a config may say only this of: nothing else is computed here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes of a language model."""

    architecture: str
    """One of `gguf_file.ARCHITECTURES`."""
    width: int
    """Floats of an embedding."""
    layers: int
    """Transformer blocks."""
    heads: int
    """Attention heads."""
    kv_heads: int
    """Heads of keys and values."""
    head_width: int
    """Floats of a head."""
    hidden: int
    """Width of the feed-forward block."""
    vocabulary: int
    """Rows of the embedding table."""
    trained_tokens: int
    """Longest context that the model was trained for."""
    norm_epsilon: float
    """Added to the mean square in RMSNorm."""
    rope_base: float
    """Base of the rotary position embedding's frequencies."""
    linear_factor: float
    """Positions are divided by it; 1 leaves them."""
    frequency_factors: tuple[float, ...]
    """Each frequency is divided by its own, as LLaMA-3.1 does; empty where none is."""
    rope_scaling: Mapping[str, Any]
    """Where both come from, in transformers' words; empty where positions are as trained."""
    is_tied: bool
    """Whether the embedding table is the output matrix too."""
    begin: int | None
    """Token that a text begins with, where the config names one."""
    end: int | None
    """Token that ends an answer, the first where the config names several."""


def read_layout(folder: Path) -> Layout:
    """Read a checkpoint folder's config.json.

    Raises:
        CheckpointError: It is missing or none, or describes what can't be converted here.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it holds a {type(config).__name__}")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} must be a JSON object that describes the model: {error}; copy it as well"
        ) from error
    return layout_from_config(config, str(path))


def layout_from_config(config: Mapping[str, Any], source: str) -> Layout:
    """Read a Hugging Face config, or the "text_config" in a multimodal one.

    Args:
        config: What config.json holds.
        source: Its name for errors.

    Raises:
        CheckpointError: It lacks a fact, or describes what can't be converted here.
    """
    config = config.get("text_config") or config
    architecture = MODEL_TYPES.get(str(config.get("model_type")))
    wrong = {
        key: config[key] for key, only in _UNSUPPORTED.items() if config.get(key, only) != only
    }
    if architecture is None or wrong:
        raise CheckpointError(
            f'{source} must have a "model_type" among {", ".join(MODEL_TYPES)}, and nothing but '
            f"{_UNSUPPORTED}; got {config.get('model_type')!r} with {wrong or 'nothing else'}; "
            "give a model of one of these kinds"
        )
    try:
        return _layout(architecture, config)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{source} must say all sizes of a {architecture} model; it does not: {error!r}; copy "
            "it from the release that the weights come from"
        ) from error


def layout_from_spec(spec: LlamaSpec) -> Layout:
    """Describe a network of ours, whose checkpoint folder has no Hugging Face config."""
    return Layout(
        architecture="llama",
        width=spec.width,
        layers=spec.layers,
        heads=spec.heads,
        kv_heads=spec.key_heads,
        head_width=spec.head_width,
        hidden=spec.mlp_width,
        vocabulary=spec.vocabulary,
        trained_tokens=spec.max_positions,
        norm_epsilon=spec.norm_epsilon,
        rope_base=spec.rope_theta,
        linear_factor=1.0,
        frequency_factors=(),
        rope_scaling={},
        is_tied=spec.is_tied,
        begin=None,
        end=None,
    )


def _layout(architecture: str, config: Mapping[str, Any]) -> Layout:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head_width = config.get("head_dim") or width // heads
    # Older versions of transformers kept the base beside "rope_scaling".
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in {"default", "linear", "llama3"}:
        raise ValueError(f"its positions are scaled by {kind!r}, not default, linear or llama3")
    ends = config.get("eos_token_id")
    return Layout(
        architecture=architecture,
        width=width,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=head_width,
        hidden=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        trained_tokens=config["max_position_embeddings"],
        norm_epsilon=config["rms_norm_eps"],
        rope_base=base,
        linear_factor=float(rope["factor"]) if kind == "linear" else 1.0,
        frequency_factors=_factors(rope, base, head_width) if kind == "llama3" else (),
        rope_scaling={**rope, "rope_type": kind} if kind != "default" else {},
        is_tied=bool(config.get("tie_word_embeddings", False)),
        begin=config.get("bos_token_id"),
        end=ends[0] if isinstance(ends, list) else ends,
    )


def _factors(rope: Mapping[str, Any], base: float, head_width: int) -> tuple[float, ...]:
    """Return what LLaMA-3.1 divides each frequency by: long waves by a factor, short ones by 1.

    Waves that fit into the first training's context `high_freq_factor` times stay, those that fit
    fewer than `low_freq_factor` times are stretched, and the divisor's inverse goes linearly in
    between (transformers, modeling_rope_utils, "llama3").
    """
    frequencies = base ** -(np.arange(0, head_width, 2) / head_width)
    waves = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    kept = np.clip((waves - low) / (high - low), 0, 1)
    return tuple((1 / ((1 - kept) / float(rope["factor"]) + kept)).tolist())
