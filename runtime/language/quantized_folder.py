"""A quantized language model as a Hugging Face folder: what must lie in it, and what doesn't fit.

The folder is what NVIDIA ModelOpt calls a unified checkpoint, of a Llama or Qwen2 network:

config.json              the network's sizes, and `quantization_config` in short
hf_quant_config.json     `quant_algo`, one of `ALGORITHMS`' values, and modules left alone
model.safetensors        or shards with an index; floats beside these for each linear layer:
tokenizer.json           or tokenizer.model

| | weight (out, in) | weight_scale | input_scale | pre_quant_scale |
|---|---|---|---|---|
| int4-awq | U8 (out / 2, in), row 2i in the low halves of row i | F32 (out, in / 128) | - | (in,) |
| fp8 | F8_E4M3 | F32 () | F32 () | - |
| int8-sq | I8 | F32 (out,) | F32 () | (in,) |

An input is multiplied by `pre_quant_scale`, rounded to multiples of `input_scale`, and multiplied
by the weights times their scale. AWQ's `pre_quant_scale` is part of the norm before it where there
is one; TensorRT-LLM reads it for the other layers alone, and needs it there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import EngineError
from .safetensors_file import StoredTensor, stored_tensors

__all__ = [
    "ALGORITHMS",
    "ARCHITECTURES",
    "CONFIG_FILE",
    "QUANTIZATION_FILE",
    "TOKENIZER_FILES",
    "LanguageSizes",
    "check_quantized_folder",
    "precision_of",
]

CONFIG_FILE = "config.json"
QUANTIZATION_FILE = "hf_quant_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
"""One of these must be there."""
ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM")
"""Networks whose tensors are known here."""
ALGORITHMS = MappingProxyType(
    {"int4-awq": "W4A16_AWQ", "fp8": "FP8", "int8-sq": "W8A8_SQ_PER_CHANNEL"}
)
"""Precision -> what ModelOpt, TensorRT-LLM and TensorRT Edge-LLM call it."""

_GROUP = 128
"""Weights that share an INT4 scale."""
_TILE = 64
"""TensorRT Edge-LLM's INT4 kernel computes as many outputs at a time."""
_WITHOUT_NORM = ("o_proj", "down_proj")
"""Layers that no norm precedes."""
_FLOATS = ("F16", "BF16")
_Wanted = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]
"""Tensor -> what its elements may be, and its shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSizes:
    """How large a Llama or Qwen2 network is."""

    width: int
    """Floats of a hidden state."""
    hidden: int
    """Width of the feed-forward block."""
    layers: int
    """Transformer blocks."""
    queries: int
    """Floats of all attention heads' queries."""
    keys: int
    """Floats of all heads' keys, and of their values."""
    vocabulary: int
    """Tokens."""
    has_tied_head: bool
    """Whether the embedding table is the last layer, too."""
    has_biases: bool
    """Whether queries, keys and values have biases."""

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> LanguageSizes:
        """Take the sizes from a config.json.

        Raises:
            EngineError: It is of another network, or lacks a size.
        """
        try:
            (architecture,) = config["architectures"]
            if architecture not in ARCHITECTURES:
                raise ValueError(f"it is of {architecture}")
            heads = int(config["num_attention_heads"])
            head_width = int(config.get("head_dim") or config["hidden_size"] // heads)
            return cls(
                width=int(config["hidden_size"]),
                hidden=int(config["intermediate_size"]),
                layers=int(config["num_hidden_layers"]),
                queries=heads * head_width,
                keys=int(config.get("num_key_value_heads") or heads) * head_width,
                vocabulary=int(config["vocab_size"]),
                has_tied_head=bool(config.get("tie_word_embeddings", False)),
                has_biases=architecture == "Qwen2ForCausalLM",
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise EngineError(
                f"{CONFIG_FILE} must give the sizes of one of {', '.join(ARCHITECTURES)}: "
                f"{error!r}; take the folder of the language model alone"
            ) from error

    def linears(self) -> Iterator[tuple[str, int, int]]:
        """Name each linear layer of the blocks, with its outputs and inputs."""
        width, hidden, queries, keys = self.width, self.hidden, self.queries, self.keys
        for layer in range(self.layers):
            block = f"model.layers.{layer}"
            yield f"{block}.self_attn.q_proj", queries, width
            yield f"{block}.self_attn.k_proj", keys, width
            yield f"{block}.self_attn.v_proj", keys, width
            yield f"{block}.self_attn.o_proj", width, queries
            yield f"{block}.mlp.gate_proj", hidden, width
            yield f"{block}.mlp.up_proj", hidden, width
            yield f"{block}.mlp.down_proj", width, hidden

    def misaligned(self, precision: str) -> list[str]:
        """Name the linear layers that a precision's kernels cannot compute."""
        if precision != "int4-awq":
            return []
        return [
            f"{name} ({outputs}, {inputs})"
            for name, outputs, inputs in self.linears()
            if outputs % _TILE or inputs % _GROUP
        ]


def precision_of(folder: Path) -> str | None:
    """Say which of `ALGORITHMS`' keys a folder is in; None where it says nothing of the kind."""
    try:
        algorithm = _read_quantization(folder).get("quant_algo")
    except EngineError:
        return None
    return next((name for name, value in ALGORITHMS.items() if value == algorithm), None)


def check_quantized_folder(folder: Path) -> list[str]:
    """List everything in a folder that doesn't fit, a sentence each; nothing where all fits.

    Weights are not read, scales are. It takes no more than NumPy, so a device can do it.
    """
    try:
        config = _read_json(folder / CONFIG_FILE)
        quantization = _read_quantization(folder)
        sizes = LanguageSizes.of_config(config)
        found = stored_tensors(folder)
    except EngineError as error:
        return [str(error)]
    misfits = [*_config_misfits(config, quantization), *_tokenizer_misfits(folder)]
    precision = precision_of(folder)
    if precision is None:
        known, algorithm = ", ".join(ALGORITHMS.values()), quantization.get("quant_algo")
        return [*misfits, f"quant_algo must be one of {known}; it is {algorithm}"]
    algorithm = ALGORITHMS[precision]
    wanted = _wanted(sizes, algorithm, quantization.get("exclude_modules") or ())
    if sizes.has_tied_head and "lm_head.weight" not in found:
        wanted = {name: what for name, what in wanted.items() if not name.startswith("lm_head.")}
    misfits += [
        f"{name} must have multiples of {_TILE} outputs and {_GROUP} inputs"
        for name in sizes.misaligned(precision)
    ]
    misfits += [
        f"{name} belongs to no part of a {algorithm} network"
        for name in sorted(set(found) - set(wanted))
    ]
    return [*misfits, *_tensor_misfits(wanted, found)]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it is a {type(content).__name__}")
    except (OSError, ValueError) as error:
        raise EngineError(f"{file} must be a JSON object: {error}; export it again") from error
    return content


def _read_quantization(folder: Path) -> dict[str, Any]:
    found = _read_json(folder / QUANTIZATION_FILE).get("quantization")
    return found if isinstance(found, dict) else {}


def _config_misfits(config: Mapping[str, Any], quantization: Mapping[str, Any]) -> list[str]:
    short = config.get("quantization_config")
    short = short if isinstance(short, dict) else {}
    algorithm = quantization.get("quant_algo")
    pairs = {
        f"{CONFIG_FILE}'s quantization_config.quant_method": (
            short.get("quant_method"),
            "modelopt",
        ),
        f"{CONFIG_FILE}'s quantization_config.quant_algo": (short.get("quant_algo"), algorithm),
        f"{QUANTIZATION_FILE}'s kv_cache_quant_algo": (
            quantization.get("kv_cache_quant_algo"),
            None,
        ),
    }
    if algorithm == "W4A16_AWQ":
        for name, value in (("group_size", _GROUP), ("has_zero_point", False)):
            pairs[f"{QUANTIZATION_FILE}'s {name}"] = (quantization.get(name), value)
    return [
        f"{what} must be {wanted!r}; it is {found!r}"
        for what, (found, wanted) in pairs.items()
        if found != wanted
    ]


def _tokenizer_misfits(folder: Path) -> list[str]:
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        return []
    return [f"the folder must have {' or '.join(TOKENIZER_FILES)}; it has none"]


def _wanted(sizes: LanguageSizes, algorithm: str, excluded: Sequence[str]) -> _Wanted:
    """Say what each tensor must be, by name."""
    wanted: _Wanted = {"model.norm.weight": (_FLOATS, (sizes.width,))}
    wanted["model.embed_tokens.weight"] = (_FLOATS, (sizes.vocabulary, sizes.width))
    for layer in range(sizes.layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            wanted[f"model.layers.{layer}.{norm}.weight"] = (_FLOATS, (sizes.width,))
    for name, outputs, inputs in (*sizes.linears(), ("lm_head", sizes.vocabulary, sizes.width)):
        is_left = any(fnmatchcase(name, pattern) for pattern in excluded)
        parts = _linear(outputs, inputs, None if is_left else algorithm)
        if algorithm == "W4A16_AWQ" and not name.endswith(_WITHOUT_NORM):
            parts.pop("pre_quant_scale", None)
        if sizes.has_biases and name.endswith(("q_proj", "k_proj", "v_proj")):
            parts["bias"] = (_FLOATS, (outputs,))
        wanted |= {f"{name}.{part}": what for part, what in parts.items()}
    return wanted


def _linear(outputs: int, inputs: int, algorithm: str | None) -> _Wanted:
    """Say what the tensors of a linear layer must be; None is a layer left in floats."""
    one, smoothing = (("F32",), ()), (_FLOATS, (inputs,))
    if algorithm == "W4A16_AWQ":
        return {
            "weight": (("U8",), (outputs // 2, inputs)),
            "weight_scale": (("F32",), (outputs, inputs // _GROUP)),
            "pre_quant_scale": smoothing,
        }
    if algorithm == "FP8":
        weight = (("F8_E4M3",), (outputs, inputs))
        return {"weight": weight, "weight_scale": one, "input_scale": one}
    if algorithm == "W8A8_SQ_PER_CHANNEL":
        return {
            "weight": (("I8",), (outputs, inputs)),
            "weight_scale": (("F32",), (outputs,)),
            "input_scale": one,
            "pre_quant_scale": smoothing,
        }
    return {"weight": (_FLOATS, (outputs, inputs))}


def _tensor_misfits(wanted: _Wanted, found: Mapping[str, StoredTensor]) -> Iterator[str]:
    for name, (dtypes, shape) in wanted.items():
        must = f"{name} must be {' or '.join(dtypes)} {shape}"
        tensor = found.get(name)
        if tensor is None:
            yield f"{must}; it is missing"
        elif tensor.dtype not in dtypes or tensor.shape != shape:
            yield f"{must}; it is {tensor.dtype} {tensor.shape}"
        elif name.endswith("_scale"):
            values = tensor.floats()
            if not (np.isfinite(values) & (values > 0)).all():
                span = f"from {values.min():g} to {values.max():g}"
                yield f"{name} must be finite and above 0; it goes {span}"
