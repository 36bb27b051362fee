"""Writes checkpoint folders of small random language models, their tokenizers and adapters."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from saymask.export.language.byte_pairs import PRE_TOKENIZERS
from saymask.runtime.backends import llama_binding
from saymask.runtime.errors import MissingExtraError

CORPUS = (
    "the red mug stands left of the lamp, and the blue knife lies on the book.",
    "Please provide the bounding box coordinate of the region this sentence describes (1):",
    "[123,045,678,999] YesNoYes 2024 3.14 don't we'll I'm they've",
    "Grüße aus Köln, naïve café — 日本語 😀 и по-русски",
)
TEXTS = (
    "the red mug",
    " the red mug left of the lamp",
    "[281,240,863,999] (051,089)\n\nYesNo",
    "1 12 123 1234 12345 007",
    "Don't they'll WE'VE i'm",
    "Grüße, naïve café — 日本語 😀👍🏽 и по-русски",
    "  two  spaces\t\ttabs \r\n lines\n\n\nend ",
    "a\u0301 e\u200db \u00a0 x²³ ½ Ⅷ ١٢٣",
    "<|not_special|> [SEG] <unk> </s>",
    "",
)
"""What tokenizers do differently: digits, spaces, contractions, letters that no training saw."""

SPECIALS = ("<|begin_of_text|>", "<|eot_id|>", "[SEG]")
LLAMA_31 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
"""How LLaMA-3.1 scales positions, trained on few of them."""


def llama_config(**changes: Any) -> dict[str, Any]:
    """Return a tiny config as transformers writes it, with four heads on two of keys and values."""
    return {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 400, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 1,
        "eos_token_id": 2, **changes,
    }  # fmt: skip


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return weights under transformers' names, large enough that attention is not flat."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", width // config["num_attention_heads"])
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 0.15) -> torch.Tensor:
        return torch.randn(shape, generator=draw) * scale

    weights = {"model.embed_tokens.weight": normal(config["vocab_size"], width, scale=1.0)}
    for layer in range(config["num_hidden_layers"]):
        block = {
            "self_attn.q_proj.weight": normal(queries, width),
            "self_attn.k_proj.weight": normal(keys, width),
            "self_attn.v_proj.weight": normal(keys, width),
            "self_attn.o_proj.weight": normal(width, queries),
            "mlp.gate_proj.weight": normal(hidden, width),
            "mlp.up_proj.weight": normal(hidden, width),
            "mlp.down_proj.weight": normal(width, hidden),
            "input_layernorm.weight": 1 + normal(width),
            "post_attention_layernorm.weight": 1 + normal(width),
        }
        if config["model_type"] == "qwen2":
            block["self_attn.q_proj.bias"] = normal(queries)
            block["self_attn.k_proj.bias"] = normal(keys)
            block["self_attn.v_proj.bias"] = normal(keys)
        weights |= {f"model.layers.{layer}.{name}": tensor for name, tensor in block.items()}
    weights["model.norm.weight"] = 1 + normal(width)
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = normal(config["vocab_size"], width)
    return weights


@cache
def byte_pair_tokenizer(pre: str, specials: tuple[str, ...] = SPECIALS) -> str:
    """Train byte pairs of LLaMA-3's or Qwen2's kind and return their tokenizer.json."""
    tokenizers = pytest.importorskip("tokenizers")
    expressions = {name: (text, whole) for text, (name, whole) in PRE_TOKENIZERS.items()}
    expression, ignores_merges = expressions[pre]
    model = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=ignores_merges))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    model.decoder = tokenizers.decoders.ByteLevel()
    if pre == "qwen2":
        model.normalizer = tokenizers.normalizers.NFC()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=390 - len(specials),
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    model.train_from_iterator(CORPUS * 4, trainer)
    model.add_special_tokens(list(specials))
    model.add_tokens(["[REF]"])
    return model.to_str()


@cache
def piece_model() -> bytes:
    """Train a SentencePiece model of byte pairs that leaves texts as they are, as LLaMA's does."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=stream,
        model_type="bpe",
        vocab_size=390,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        split_digits=True,
        minloglevel=2,
    )
    return stream.getvalue()


def need_llama_cpp() -> None:
    """Skip the test where llama.cpp is not installed, saying how to get it."""
    try:
        llama_binding.load()
    except MissingExtraError as error:
        pytest.skip(str(error))


def write_folder(
    folder: Path,
    *,
    weights: dict[str, torch.Tensor] | None = None,
    tokenizer: str | None = None,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a checkpoint; `tokenizer` is a tokenizer.json, None a SentencePiece model."""
    config = llama_config(**changes)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights or random_weights(config), folder / "model.safetensors")
    if tokenizer is None:
        (folder / "tokenizer.model").write_bytes(piece_model())
    else:
        (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings or {}))
    return folder


def write_adapter(
    folder: Path, weights: dict[str, torch.Tensor], *, modules: tuple[str, ...], **changes: Any
) -> Path:
    """Write a LoRA of rank 4 that changes `modules` of a model with `weights`."""
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **changes}
    draw = torch.Generator().manual_seed(7)
    tensors = {}
    for module in modules:
        rows, columns = weights[f"{module}.weight"].shape
        key = f"base_model.model.{module}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, columns, generator=draw) * 0.2
        tensors[f"{key}.lora_B.weight"] = torch.randn(rows, 4, generator=draw) * 0.2
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def largest_difference(found: Any, expected: Any) -> float:
    """Return it in parts of the largest expected number."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())
