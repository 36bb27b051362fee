"""NumPy runs a language model in plain code, for other backends to be compared with."""

from __future__ import annotations

import io
from functools import cached_property

import numpy as np

from .. import machine
from ..errors import DeviceError, EngineError
from ..language.adapter_file import AdapterFile
from ..language.decoder import Batch, Spot
from ..language.gguf_file import LanguageFile
from .llama_byte_pairs import BytePairs
from .llama_pieces import Pieces

__all__ = ["ReferenceDecoder", "find_spot", "open_decoder"]

_Cache = tuple[np.ndarray, ...]


class ReferenceDecoder:
    """LLaMA (Touvron et al. 2023) and Qwen2 (Yang et al. 2024), a sequence after the other.

    Weights are float32, whatever the file holds them in, an adapter's sum included.
    """

    name = "reference"

    def __init__(
        self, file: LanguageFile, cache_dtype: str, adapter: AdapterFile | None = None
    ) -> None:
        """Run `file`'s model and keep its keys and values as `cache_dtype`."""
        self._file = file
        self._adapter = adapter
        self._spec = file.spec
        self._dtype = np.dtype(cache_dtype)
        self._weights: dict[str, np.ndarray] = {}
        self._caches: dict[int, _Cache] = {}
        halves = np.arange(self._spec.head_width // 2) * 2 / self._spec.head_width
        self._frequencies = self._spec.rope_base**-halves
        if "rope_freqs.weight" in file:
            self._frequencies = self._frequencies / file.tensor("rope_freqs.weight")

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """Encode a text; see `language_decoder.Decoder`."""
        return self._pieces.tokens(text, special=special)

    def piece(self, token: int) -> bytes:
        """Return the UTF-8 of a token, or the byte that it stands for."""
        return self._pieces.piece(token)

    def decode(self, batch: Batch) -> tuple[np.ndarray | None, np.ndarray]:
        """Decode a batch; see `language_decoder.Decoder`."""
        hidden = np.empty((len(batch.inputs), self._spec.width), np.float32)
        for sequence in dict.fromkeys(batch.sequences.tolist()):
            rows = batch.sequences == sequence
            inputs = batch.inputs[rows]
            if inputs.ndim == 1:
                inputs = self._file.embeddings(inputs)
            hidden[rows] = self._run(inputs, batch.positions[rows], sequence)
        hidden = hidden[batch.wanted]
        table = "output.weight" if "output.weight" in self._file else "token_embd.weight"
        logits = hidden @ self._weight(table).T
        return hidden if batch.has_hidden else None, logits

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence share all of another one's tokens."""
        self._caches[target] = self._caches[source]

    def drop(self, sequence: int) -> None:
        """Forget a sequence; tokens that others share stay."""
        self._caches.pop(sequence, None)

    def save(self, sequence: int) -> bytes:
        """Return the keys and values of a sequence."""
        stream = io.BytesIO()
        np.save(stream, np.stack(self._caches[sequence]))
        return stream.getvalue()

    def restore(self, sequence: int, state: bytes) -> None:
        """Fill an empty sequence with what `save` returned."""
        self._caches[sequence] = tuple(np.load(io.BytesIO(state)))

    def close(self) -> None:
        """Give the memory back."""
        self._weights.clear()
        self._caches.clear()

    @cached_property
    def _pieces(self) -> Pieces:
        return (BytePairs if self._spec.tokenizer == "gpt2" else Pieces)(self._file)

    def _run(self, states: np.ndarray, positions: np.ndarray, sequence: int) -> np.ndarray:
        """Turn (n, width) embeddings into hidden states, and lengthen the sequence's cache."""
        past = self._caches.get(sequence, ())
        kept: list[np.ndarray] = []
        for layer in range(self._spec.layers):
            block = f"blk.{layer}."
            queries, new = self._project(self._norm(states, block + "attn_norm"), positions, block)
            both = np.concatenate([past[layer], new], axis=1) if past else new
            kept.append(both)
            seen = self._attend(queries, both.astype(np.float32), positions)
            states = states + self._linear(seen, block + "attn_output")
            states = states + self._feed_forward(self._norm(states, block + "ffn_norm"), block)
        self._caches[sequence] = tuple(kept)
        return self._norm(states, "output_norm")

    def _project(
        self, states: np.ndarray, positions: np.ndarray, block: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, heads, w) queries and (2, n, kv heads, w) keys and values."""
        queries, keys, values = (
            self._linear(states, f"{block}attn_{name}").reshape(
                len(states), -1, self._spec.head_width
            )
            for name in "qkv"
        )
        angles = positions[:, None, None] * self._frequencies
        keys = self._rotate(keys, angles)
        return self._rotate(queries, angles), np.stack([keys, values]).astype(self._dtype)

    def _rotate(self, heads: np.ndarray, angles: np.ndarray) -> np.ndarray:
        """Rotate pairs of numbers: neighbors in LLaMA's layout, halves in Qwen2's."""
        is_paired = self._spec.architecture == "llama"
        shape = (*heads.shape[:2], -1, 2) if is_paired else (*heads.shape[:2], 2, -1)
        pairs = heads.reshape(shape)
        axis = 3 if is_paired else 2
        left, right = np.moveaxis(pairs, axis, 0)
        cos, sin = np.cos(angles), np.sin(angles)
        turned = np.stack([left * cos - right * sin, left * sin + right * cos], axis=axis)
        return turned.reshape(heads.shape).astype(np.float32)

    def _attend(self, queries: np.ndarray, cache: np.ndarray, positions: np.ndarray) -> np.ndarray:
        keys, values = cache.repeat(self._spec.heads // self._spec.kv_heads, axis=2)
        scores = np.einsum("qhw,khw->hqk", queries, keys) / np.sqrt(self._spec.head_width)
        # A cache holds the positions from 0 in their order.
        is_later = np.arange(len(keys)) > positions[:, None]
        scores = np.where(is_later, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.einsum("hqk,khw->qhw", weights, values).reshape(len(queries), -1)

    def _feed_forward(self, states: np.ndarray, block: str) -> np.ndarray:
        gate = self._linear(states, block + "ffn_gate")
        gate = gate / (1 + np.exp(-gate))
        return self._linear(gate * self._linear(states, block + "ffn_up"), block + "ffn_down")

    def _norm(self, states: np.ndarray, name: str) -> np.ndarray:
        square = np.square(states).mean(axis=-1, keepdims=True)
        return states / np.sqrt(square + self._spec.norm_epsilon) * self._weight(f"{name}.weight")

    def _linear(self, states: np.ndarray, name: str) -> np.ndarray:
        product = states @ self._weight(f"{name}.weight").T
        return product + self._weight(f"{name}.bias") if f"{name}.bias" in self._file else product

    def _weight(self, name: str) -> np.ndarray:
        if name not in self._weights:
            change = self._adapter and self._adapter.change(name)
            weight = self._file.tensor(name)
            self._weights[name] = weight if change is None else weight + change
        return self._weights[name]


def find_spot(device: str) -> Spot:
    """Settle a device, which is the CPU, or raise a DeviceError."""
    if device not in {"auto", "cpu"}:
        raise DeviceError(f"the reference runs on the cpu; got device {device!r}; leave it out")
    memory = machine.memory_bytes()
    return Spot(device="cpu", free_bytes=memory["available"] if memory else None)


def open_decoder(
    file: LanguageFile,
    *,
    device: str,
    threads: int,
    context_tokens: int,
    cache_dtype: str,
    adapter: AdapterFile | None,
) -> ReferenceDecoder:
    """Run a file's model; see `language_decoder.DecoderModule`.

    Raises:
        EngineError: Its positions are scaled in a way that is not written here.
    """
    scaling = file.metadata.get(f"{file.spec.architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise EngineError(
            f"the reference takes positions as they are; {file.path} scales them ({scaling}); "
            "take backend llamacpp"
        )
    return ReferenceDecoder(file, cache_dtype, adapter)
