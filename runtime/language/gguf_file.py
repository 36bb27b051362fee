"""A language model's GGUF file: what the model is, its vocabulary and its tensors."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError

__all__ = ["ARCHITECTURES", "TOKENIZERS", "LanguageFile", "LanguageSpec", "TokenKind"]

ARCHITECTURES = ("llama", "qwen2")
"""Values of `general.architecture` that are known here: LLaMA 1 to 3, Vicuna, Qwen2 and Qwen2.5."""

TOKENIZERS = ("llama", "gpt2", "no_vocab")
"""Values of `tokenizer.ggml.model` that are known here: SentencePiece, byte pairs and none."""

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
"""Kinds of metadata values and their NumPy dtypes."""

_FORMATS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 30: ("BF16", 1, 2),
}  # fmt: skip
"""Formats of tensors by ggml's number: name, weights in a block, bytes of a block."""

_FINGERPRINT_BYTES = 256
_DAMAGE = (struct.error, ValueError, LookupError, TypeError, ArithmeticError)
"""What reading a damaged header raises."""


class TokenKind(IntEnum):
    """What a token of a vocabulary is, as GGUF numbers it."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    """Stands for something outside the words; read from text only where that is asked for."""
    USER_DEFINED = 4
    """Found in every text that spells it out, also in what a user writes."""
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSpec:
    """What a language model is."""

    architecture: str
    """One of `ARCHITECTURES`."""
    width: int
    """Floats of an embedding and of a hidden state."""
    layers: int
    """Transformer blocks."""
    heads: int
    """Attention heads."""
    kv_heads: int
    """Heads of keys and values; each serves `heads / kv_heads` attention heads."""
    head_width: int
    """Floats of a head."""
    hidden: int
    """Width of the feed-forward block."""
    vocabulary: int
    """Tokens, so that ids are 0..vocabulary - 1 and logits have this width."""
    trained_tokens: int
    """Longest context that the model was trained for."""
    norm_epsilon: float
    """Added to the mean square in RMSNorm."""
    rope_base: float
    """Base of the rotary position embedding's frequencies."""
    tokenizer: str
    """One of `TOKENIZERS`."""
    begin: int | None
    """Token that a text begins with; None where the file names none."""
    end: int | None
    """Token that ends an answer; None where the file names none."""
    weight_bytes: int
    """Size of all tensors in the file."""
    fingerprint: str
    """SHA-256 of the header and the first 256 bytes of each tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """Where a tensor lies."""

    shape: tuple[int, ...]
    """Extents, rows first, as NumPy counts them."""
    format: int
    """Key of `_FORMATS`."""
    start: int
    """Its first byte in the file."""

    @property
    def row_bytes(self) -> int:
        _, weights, size_bytes = _FORMATS[self.format]
        return self.shape[-1] // weights * size_bytes

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape[:-1]) * self.row_bytes


class LanguageFile:
    """A GGUF file of version 2 or 3, mapped into memory and read where it is asked."""

    def __init__(self, path: Path) -> None:
        """Read the header of `path` and check that nothing is cut off.

        Raises:
            EngineError: It is missing, no GGUF file, damaged, or has tensors of unknown formats.
        """
        self.path = path
        if not path.is_file() or not path.stat().st_size:
            raise EngineError(f"the language model must be a GGUF file; there is none at {path}")
        self._bytes = np.memmap(path, np.uint8, "r")
        try:
            self.metadata, self._tensors = _read_header(self._bytes)
            stop = max((tensor.stop for tensor in self._tensors.values()), default=0)
        except _DAMAGE as error:
            raise EngineError(
                f"{path} must be a whole GGUF file of version 2 or 3; it is not: {error}; "
                "copy it or export it again"
            ) from error
        if stop > len(self._bytes):
            raise EngineError(
                f"{path} must hold {stop} bytes; got {len(self._bytes)}: it was cut off; "
                "copy it or export it again"
            )

    @cached_property
    def spec(self) -> LanguageSpec:
        """What the model is.

        Raises:
            EngineError: Its architecture or tokenizer is not known here, its vocabulary is
                damaged or doesn't say how it tells words apart, or a fact is missing.
        """
        facts = self.metadata
        name = facts.get("general.architecture")
        self._check("architecture", name, ARCHITECTURES)
        self._check("tokenizer", facts.get("tokenizer.ggml.model", "no_vocab"), TOKENIZERS)
        self._check_vocabulary()
        self._check_words()
        try:
            return self._spec(str(name), facts)
        except _DAMAGE as error:
            raise EngineError(
                f"{self.path} must say what a {name} model is; it does not: {error!r}; export it "
                "again"
            ) from error

    def _check(self, what: str, name: object, known: tuple[str, ...]) -> None:
        if name not in known:
            raise EngineError(
                f"the {what} of {self.path} must be one of {', '.join(known)}; got {name!r}; "
                "take a model that has one of them"
            )

    def _check_vocabulary(self) -> None:
        """Refuse what would end the process in llama.cpp: equal tokens, a byte without a token."""
        texts = self.metadata.get("tokenizer.ggml.tokens", [])
        repeated = len(texts) - len(set(texts))
        missing = _byte_tokens(self.metadata.get("tokenizer.ggml.model")) - set(texts)
        if repeated or missing:
            raise EngineError(
                f"the vocabulary of {self.path} must hold nothing twice and each of the 256 "
                f"bytes; it repeats {repeated} tokens and lacks {len(missing)} bytes; export it "
                "again"
            )

    def _check_words(self) -> None:
        """Refuse byte pairs of unsaid words: llama.cpp would guess, and give other tokens."""
        facts = self.metadata
        if facts.get("tokenizer.ggml.model") == "gpt2" and not facts.get("tokenizer.ggml.pre"):
            raise EngineError(
                f"{self.path} must say in tokenizer.ggml.pre how its byte pairs tell words apart "
                "('llama-bpe', 'qwen2'); it does not; convert the model again, with a converter "
                "that writes it"
            )

    def _spec(self, name: str, facts: dict[str, Any]) -> LanguageSpec:
        width, heads = facts[f"{name}.embedding_length"], facts[f"{name}.attention.head_count"]
        return LanguageSpec(
            architecture=name,
            width=width,
            layers=facts[f"{name}.block_count"],
            heads=heads,
            kv_heads=facts.get(f"{name}.attention.head_count_kv", heads),
            head_width=facts.get(f"{name}.attention.key_length", width // heads),
            hidden=facts[f"{name}.feed_forward_length"],
            vocabulary=self._tensors["token_embd.weight"].shape[0],
            trained_tokens=facts[f"{name}.context_length"],
            norm_epsilon=facts[f"{name}.attention.layer_norm_rms_epsilon"],
            rope_base=facts.get(f"{name}.rope.freq_base", 10000.0),
            tokenizer=facts.get("tokenizer.ggml.model", "no_vocab"),
            begin=facts.get("tokenizer.ggml.bos_token_id"),
            end=facts.get("tokenizer.ggml.eos_token_id"),
            weight_bytes=sum(tensor.stop - tensor.start for tensor in self._tensors.values()),
            fingerprint=self.fingerprint,
        )

    @property
    def pieces(self) -> list[tuple[str, float, TokenKind]]:
        """The vocabulary: text, score (0 where byte pairs have none) and kind of each token."""
        texts = self.metadata["tokenizer.ggml.tokens"]
        kinds = map(TokenKind, self.metadata["tokenizer.ggml.token_type"])
        scores = self.metadata.get("tokenizer.ggml.scores", np.zeros(len(texts))).tolist()
        return list(zip(texts, scores, kinds, strict=True))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Extents of each tensor by its name, rows first as NumPy counts them."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor as float32, rows first as NumPy counts.

        Raises:
            EngineError: There is none of this name, or its format is not F32, F16, BF16 or Q8_0.
        """
        if name not in self._tensors:
            raise EngineError(f"{self.path} must hold the tensor {name!r}; export it again")
        tensor = self._tensors[name]
        raw = self._bytes[tensor.start : tensor.stop].reshape(-1, tensor.row_bytes)
        return self._floats(raw, name).reshape(tensor.shape)

    def embeddings(self, tokens: np.ndarray) -> np.ndarray:
        """Read the rows of (n,) token ids from the embedding table as (n, width) float32.

        Raises:
            EngineError: The table's format is not F32, F16, BF16 or Q8_0.
        """
        table = self._tensors["token_embd.weight"]
        raw = self._bytes[table.start : table.stop].reshape(-1, table.row_bytes)
        return self._floats(raw[tokens], "token_embd.weight")

    def _floats(self, raw: np.ndarray, name: str) -> np.ndarray:
        """Turn (rows, bytes of a row) into (rows, weights of a row) float32."""
        kind, weights, _ = _FORMATS[self._tensors[name].format]
        raw = np.ascontiguousarray(raw)
        if kind in {"F32", "F16"}:
            return raw.view("<f4" if kind == "F32" else "<f2").astype(np.float32)
        if kind == "BF16":
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        if kind == "Q8_0":
            # A block is one float16 scale and 32 int8 weights.
            blocks = raw.reshape(len(raw), -1, 2 + weights)
            scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
            return (scales * blocks[..., 2:].view(np.int8)).reshape(len(raw), -1)
        raise EngineError(
            f"{name} of {self.path} must be F32, F16, BF16 or Q8_0 to be read here; got {kind}; "
            "keep it in Q8_0 when you quantize (llama-quantize --token-embedding-type q8_0)"
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the header and the first 256 bytes of each tensor."""
        data_start = min(tensor.start for tensor in self._tensors.values())
        digest = hashlib.sha256(self._bytes[:data_start].tobytes())
        for tensor in self._tensors.values():
            stop = min(tensor.stop, tensor.start + _FINGERPRINT_BYTES)
            digest.update(self._bytes[tensor.start : stop].tobytes())
        return digest.hexdigest()


def _byte_tokens(tokenizer: str | None) -> set[str]:
    """Return what the 256 bytes are called in a vocabulary."""
    if tokenizer == "llama":
        return {f"<0x{byte:02X}>" for byte in range(256)}
    if tokenizer == "gpt2":
        # What Latin-1 prints stands for itself, the other 68 bytes for letters from U+0100 on.
        printed = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
        return set(map(chr, (*printed, *range(0x100, 0x144))))
    return set()


def _read_header(data: np.ndarray) -> tuple[dict[str, Any], dict[str, _Tensor]]:
    cursor = _Cursor(data)
    magic = cursor.take(4)
    if magic != _MAGIC:
        raise ValueError(f"it begins with {magic!r}")
    version, tensors, pairs = cursor.unpack("<IQQ")
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}")
    metadata = {cursor.string(): cursor.value(*cursor.unpack("<I")) for _ in range(pairs)}
    infos = [(cursor.string(), *_read_extents(cursor)) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment
    return metadata, {
        name: _Tensor(shape=shape, format=kind, start=start + offset)
        for name, shape, kind, offset in infos
    }


def _read_extents(cursor: _Cursor) -> tuple[tuple[int, ...], int, int]:
    (rank,) = cursor.unpack("<I")
    shape = cursor.unpack(f"<{rank}Q")[::-1]
    kind, offset = cursor.unpack("<IQ")
    if kind not in _FORMATS:
        raise ValueError(f"a tensor has format {kind}, which is not known here")
    return shape, kind, offset


class _Cursor:
    """Reads a header from its beginning; what is cut off raises struct.error or ValueError."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data.data
        self.at = 0

    def unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self._data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self.at:
            raise ValueError(f"it ends within {count} bytes at {self.at}")
        self.at += count
        return bytes(self._data[self.at - count : self.at])

    def string(self) -> str:
        return self.take(*self.unpack("<Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self._numbers(kind, 1)[0].item()
        kind, count = self.unpack("<IQ")
        if kind in {_STRING, _ARRAY}:
            return [self.value(kind) for _ in range(count)]
        return self._numbers(kind, count)

    def _numbers(self, kind: int, count: int) -> np.ndarray:
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)
