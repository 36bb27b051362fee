"""Writes small random language models as GGUF files, and opens them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from saymask.runtime.errors import MissingExtraError
from saymask.runtime.language import LanguageEngine
from saymask.runtime.language.opening import open_language

WORDS = ("the", "red", "mug", "left", "of", "lamp", "yes", "no", "▁the", "▁red", "▁mug", "▁lamp")
SEG, REF = 398, 399
"""Ids of the control token "[SEG]" and of the user-defined token "[REF]"."""

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_LETTERS = "▁abcdefghijklmnopqrstuvwxyz.,[]"


def pieces(rows: int = 400) -> list[tuple[str, float, int]]:
    """Three controls, 256 bytes, letters, words, fillers, the two added ones and more fillers."""
    found = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    found += [(f"<0x{byte:02X}>", 0.0, _BYTE) for byte in range(256)]
    found += [(letter, -50.0 - at, _NORMAL) for at, letter in enumerate(_LETTERS)]
    words = {word[:end] for word in WORDS for end in range(2, len(word) + 1)}
    found += [(word, -float(at), _NORMAL) for at, word in enumerate(sorted(words))]
    found += [(f"<unused{at}>", -1000.0, _CONTROL) for at in range(SEG - len(found))]
    found += [("[SEG]", -1000.0, _CONTROL), ("[REF]", -1000.0, _USER_DEFINED)]
    return found + [(f"<unused{at}>", -1000.0, _CONTROL) for at in range(len(found), rows)]


def byte_pairs(rows: int = 400) -> tuple[list[str], list[str]]:
    """256 bytes, five words, fillers and "<|end|>", as LLaMA-3 spells them; and the merges."""
    printed = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    words = [chr(letter) for letter in (*printed, *range(0x100, 0x144))]
    merges = ["t h", "th e", "Ġ r", "Ġr e", "Ġre d"]
    words += [merge.replace(" ", "") for merge in merges]
    return [*words, *(f"<unused{at}>" for at in range(rows - 1 - len(words))), "<|end|>"], merges


def write(
    path: Path,
    *,
    architecture: str = "llama",
    tokenizer: str = "llama",
    format: str = "F32",
    seed: int = 0,
    width: int = 64,
    layers: int = 2,
    hidden: int = 128,
    rows: int = 400,
    context: int = 2048,
    scale: float = 0.15,
) -> Path:
    """Write a model with random weights; four heads share two heads of keys and values."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(rows)
    writer.add_tokenizer_model(tokenizer)
    if tokenizer == "llama":
        words, scores, kinds = zip(*pieces(rows), strict=True)
        writer.add_token_list([word.encode() for word in words])
        writer.add_token_scores(list(scores))
        writer.add_token_types(list(kinds))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    if tokenizer == "gpt2":
        words, merges = byte_pairs(rows)
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_list(words)
        writer.add_token_types([_NORMAL] * (rows - 1) + [_CONTROL])
        writer.add_token_merges(merges)
        writer.add_eos_token_id(rows - 1)
    kind = gguf.GGMLQuantizationType[format]
    weights = _weights(architecture, seed, width, layers, hidden, rows, scale)
    for name, array in weights.items():
        if array.ndim == 1 or format == "F32":
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(
    architecture: str, seed: int, width: int, layers: int, hidden: int, rows: int, scale: float
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = scale) -> np.ndarray:
        return rng.normal(0, scale, shape).astype(np.float32)

    weights = {"token_embd.weight": draw(rows, width, scale=1.0)}
    for layer in range(layers):
        block = {
            "attn_norm.weight": 1 + draw(width),
            "attn_q.weight": draw(width, width),
            "attn_k.weight": draw(width // 2, width),
            "attn_v.weight": draw(width // 2, width),
            "attn_output.weight": draw(width, width),
            "ffn_norm.weight": 1 + draw(width),
            "ffn_gate.weight": draw(hidden, width),
            "ffn_up.weight": draw(hidden, width),
            "ffn_down.weight": draw(width, hidden),
        }
        if architecture == "qwen2":
            block["attn_q.bias"] = draw(width)
            block["attn_k.bias"] = draw(width // 2)
            block["attn_v.bias"] = draw(width // 2)
        weights |= {f"blk.{layer}.{name}": array for name, array in block.items()}
    return weights | {"output_norm.weight": 1 + draw(width), "output.weight": draw(rows, width)}


def write_adapter(
    path: Path,
    shapes: dict[str, tuple[int, int]],
    *,
    architecture: str = "llama",
    kind: str = "lora",
    alpha: float = 0.0,
    rank: int = 4,
) -> Path:
    """Write a LoRA with random factors for matrices of (rows, columns)."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", alpha)
    rng = np.random.default_rng(1)
    for name, (rows, columns) in shapes.items():
        for side, shape in (("a", (rank, columns)), ("b", (rows, rank))):
            factor = rng.normal(0, 0.2, shape).astype(np.float32)
            writer.add_tensor(f"{name}.lora_{side}", factor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def open_on(backend: str, path: Path, **options: object) -> LanguageEngine:
    """Open a model with one thread of the CPU, or skip the test, saying how to get the library."""
    options = {"context_tokens": 256, "device": "cpu", "threads": 1, **options}
    try:
        return open_language(path, backend=backend, **options)  # pyright: ignore
    except MissingExtraError as error:
        pytest.skip(str(error))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in parts of the largest expected number."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
