"""Hand-made quantized folders of a Llama or Qwen2 network with one block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WIDTH, HIDDEN, KEYS, VOCABULARY = 256, 384, 128, 96
ALGORITHMS = {"int4-awq": "W4A16_AWQ", "fp8": "FP8", "int8-sq": "W8A8_SQ_PER_CHANNEL"}
LINEARS = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (KEYS, WIDTH),
    "self_attn.v_proj": (KEYS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (HIDDEN, WIDTH),
    "mlp.up_proj": (HIDDEN, WIDTH),
    "mlp.down_proj": (WIDTH, HIDDEN),
}
BLOCK = "model.layers.0"


def config(architecture: str = "LlamaForCausalLM", **changes: Any) -> dict[str, Any]:
    """What config.json says before anything is quantized."""
    return {
        "architectures": [architecture],
        "model_type": "llama" if architecture.startswith("Llama") else "qwen2",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        **changes,
    }


def write(folder: Path, precision: str, architecture: str = "LlamaForCausalLM") -> Path:
    """Write a folder that fits."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text("{}")
    algorithm = ALGORITHMS[precision]
    short = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head"]}
    _write_json(folder / "config.json", {**config(architecture), "quantization_config": short})
    quantization = {
        "quant_algo": algorithm,
        "kv_cache_quant_algo": None,
        "exclude_modules": ["lm_head", "model.embed_tokens"],
    }
    if precision == "int4-awq":
        quantization |= {"group_size": 128, "has_zero_point": False}
    _write_json(folder / "hf_quant_config.json", {"quantization": quantization})
    save_file(_tensors(precision, architecture), folder / "model.safetensors")
    return folder


def change(folder: Path, **tensors: Tensor | None) -> None:
    """Replace tensors, "/" for "." in their names; None takes one away."""
    stored = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        stored.pop(name.replace("/", "."), None)
        if tensor is not None:
            stored[name.replace("/", ".")] = tensor
    save_file(stored, folder / "model.safetensors")


def edit(file: Path, **entries: Any) -> None:
    """Change entries of a JSON file, in its "quantization" where it has one."""
    content = json.loads(file.read_text())
    content.get("quantization", content).update(entries)
    _write_json(file, content)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content))


def _tensors(precision: str, architecture: str) -> dict[str, Tensor]:
    tensors = {
        "model.embed_tokens.weight": _half(VOCABULARY, WIDTH),
        "model.norm.weight": _half(WIDTH),
        "lm_head.weight": _half(VOCABULARY, WIDTH),
        f"{BLOCK}.input_layernorm.weight": _half(WIDTH),
        f"{BLOCK}.post_attention_layernorm.weight": _half(WIDTH),
    }
    for name, (outputs, inputs) in LINEARS.items():
        parts = _linear(precision, outputs, inputs)
        if precision == "int4-awq" and name.endswith(("o_proj", "down_proj")):
            parts["pre_quant_scale"] = _half(inputs)
        if architecture.startswith("Qwen2") and name.endswith(("q_proj", "k_proj", "v_proj")):
            parts["bias"] = _half(outputs)
        tensors |= {f"{BLOCK}.{name}.{part}": tensor for part, tensor in parts.items()}
    return tensors


def _linear(precision: str, outputs: int, inputs: int) -> dict[str, Tensor]:
    one = torch.tensor(0.5)
    if precision == "int4-awq":
        weight = torch.zeros(outputs // 2, inputs, dtype=torch.uint8)
        return {"weight": weight, "weight_scale": torch.ones(outputs, inputs // 128)}
    if precision == "fp8":
        weight = torch.zeros(outputs, inputs).to(torch.float8_e4m3fn)
        return {"weight": weight, "weight_scale": one, "input_scale": one.clone()}
    return {
        "weight": torch.zeros(outputs, inputs, dtype=torch.int8),
        "weight_scale": torch.ones(outputs),
        "input_scale": one,
        "pre_quant_scale": _half(inputs),
    }


def _half(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float16)
