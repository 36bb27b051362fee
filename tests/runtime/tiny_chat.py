"""Writes a small model with LLaMA-3's tokens that answers as it is told, as a GGUF file.

Seven numbers of each vector steer it: one that all tokens have, one that only the answer has, one
that only "Check" has, which a question about points begins with, and one for having read that word;
one that numbers have, one for how small they are, and one for how small the last ones read were:
points high in the frame are mostly answered with Yes. The other numbers and all but the first layer
are random, so that all words count a little.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from saymask.runtime.backends.llama_byte_pairs import _letters

CONTROLS = (
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
)  # fmt: skip
WIDTH, HEAD, HIDDEN, LAYERS = 64, 16, 96, 3
BOX = "[281,251,863,999]"
_MERGES = ("Y e", "Ye s", "N o", "t h", "th e", "C h", "c k", "Ch e", "Che ck", "Ċ Ċ")
_EVERY, _ANSWER, _CHECK, _HAS_READ, _NUMBER, _SMALL, _WAS_SMALL = range(7)
STEERING = slice(0, _WAS_SMALL + 1)
"""What the vectors of an image must leave at 0."""
_STRONG = 4.0


def vocabulary(answer: str) -> list[str]:
    """Bytes, merges, all numbers of three digits, the answer as one token, and the controls."""
    letters = _letters()
    merged = [merge.replace(" ", "") for merge in _MERGES]
    numbers = [f"{number:03d}" for number in range(1000)]
    told = "".join(letters[byte] for byte in answer.encode())
    return [*letters, *merged, *numbers, told, *CONTROLS]


def write(
    path: Path,
    answer: str = BOX,
    *,
    seed: int = 0,
    context: int = 1024,
    without: tuple[str, ...] = (),
) -> Path:
    """Write a model whose first answer is `answer`, spelled without the tokens `without`."""
    words = [
        f"<gone{at}>" if word in without else word for at, word in enumerate(vocabulary(answer))
    ]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(WIDTH // HEAD)
    writer.add_head_count_kv(WIDTH // HEAD // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(words)
    writer.add_token_types([1] * (len(words) - len(CONTROLS)) + [3] * len(CONTROLS))
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(len(words) - 4)
    writer.add_eos_token_id(len(words) - 1)
    for name, array in _weights(vocabulary(answer), seed).items():
        writer.add_tensor(name, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(words: list[str], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = len(words)
    check, yes, no = (words.index(word) for word in ("Check", "Yes", "No"))
    told, stop = rows - 1 - len(CONTROLS), rows - 1
    embedding = rng.normal(0, 1, (rows, WIDTH))
    embedding[:, STEERING] = 0
    embedding[:, _EVERY] = _STRONG
    first = words.index("000")
    embedding[first : first + 1000, _NUMBER] = _STRONG
    embedding[first : first + 1000, _SMALL] = np.linspace(_STRONG, -_STRONG, 1000)
    embedding[told, _ANSWER] = embedding[check, _CHECK] = _STRONG
    output = rng.normal(0, 0.2, (rows, WIDTH))
    output[:, STEERING] = 0
    output[told, [_EVERY, _ANSWER, _HAS_READ]] = 16, -50, -50
    output[stop, _ANSWER] = 30
    output[[yes, no], _HAS_READ] = 6
    output[[yes, no], _WAS_SMALL] = 3, -3
    weights = {"token_embd.weight": embedding, "output.weight": output}
    weights["output_norm.weight"] = np.ones(WIDTH)
    for layer in range(LAYERS):
        block = _random_block(rng) if layer else _reading_block()
        weights |= {f"blk.{layer}.{name}": array for name, array in block.items()}
    return weights


def _reading_block() -> dict[str, np.ndarray]:
    """Two heads: one finds "Check" wherever it stands, the other the last numbers."""
    block = {name: np.zeros_like(array) for name, array in _random_block(None).items()}
    block |= {name: np.ones(WIDTH) for name in ("attn_norm.weight", "ffn_norm.weight")}
    # The head's last pair of numbers turns so slowly that it knows no position.
    block["attn_q.weight"][HEAD - 1, _EVERY] = 6
    block["attn_k.weight"][HEAD - 1, _CHECK] = 6
    block["attn_v.weight"][0, _CHECK] = 1
    block["attn_output.weight"][_HAS_READ, 0] = 2
    # Two pairs before, it turns by 0.04 a token: what is near stands out.
    block["attn_q.weight"][2 * HEAD + 5, _EVERY] = 15
    block["attn_k.weight"][HEAD + 5, _NUMBER] = 15
    block["attn_v.weight"][HEAD, _SMALL] = 1
    block["attn_output.weight"][_WAS_SMALL, 2 * HEAD] = 2
    return block


def _random_block(rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    """A layer that leaves the steering numbers alone; without `rng`, of any numbers."""
    draw = (rng or np.random.default_rng(0)).normal
    block = {
        "attn_norm.weight": 1 + draw(0, 0.1, WIDTH),
        "attn_q.weight": draw(0, 0.25, (WIDTH, WIDTH)),
        "attn_k.weight": draw(0, 0.25, (WIDTH // 2, WIDTH)),
        "attn_v.weight": draw(0, 0.25, (WIDTH // 2, WIDTH)),
        "attn_output.weight": draw(0, 0.25, (WIDTH, WIDTH)),
        "ffn_norm.weight": 1 + draw(0, 0.1, WIDTH),
        "ffn_gate.weight": draw(0, 0.15, (HIDDEN, WIDTH)),
        "ffn_up.weight": draw(0, 0.15, (HIDDEN, WIDTH)),
        "ffn_down.weight": draw(0, 0.15, (WIDTH, HIDDEN)),
    }
    block["attn_output.weight"][STEERING] = 0
    block["ffn_down.weight"][STEERING] = 0
    return block
