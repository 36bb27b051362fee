"""What a backend does for a language engine: run one batch over a cache of sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .adapter_file import AdapterFile
from .gguf_file import LanguageFile

__all__ = ["MAX_SEQUENCES", "TOGETHER", "Batch", "Decoder", "DecoderModule", "Spot"]

MAX_SEQUENCES = 128
"""Sequences that a cache holds at once.

llama.cpp allows 256, and keeps room for the logits of as many as it is told.
"""

TOGETHER = 512
"""Tokens that are computed at once; a larger batch goes in several such steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tokens that are decoded at once; each sees its own sequence up to itself."""

    inputs: np.ndarray
    """(n,) int32 token ids or (n, width) float32 embeddings."""
    positions: np.ndarray
    """(n,) int32, going on where each token's sequence ended."""
    sequences: np.ndarray
    """(n,) int32 below `MAX_SEQUENCES`; a sequence's tokens lie together, in order."""
    wanted: np.ndarray
    """(n,) bool, the tokens whose outputs are returned."""
    has_hidden: bool
    """Whether hidden states are returned too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where a model runs."""

    device: str
    """"cpu" or "cuda:N"."""
    free_bytes: int | None
    """Memory that is free there; None where the system doesn't tell."""


class Decoder(Protocol):
    """An open model with its cache; what it is asked was checked before."""

    name: str
    """The library and its version: states of another one can't be restored."""

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """Encode a text; control tokens are read from it if `special`."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the UTF-8 of a token, or the part of it that it stands for."""
        ...

    def decode(self, batch: Batch) -> tuple[np.ndarray | None, np.ndarray]:
        """Decode a batch and keep its keys and values.

        Returns:
            (k, width) float32 hidden states after the last norm, or None, and (k, V) float32
            logits of the k wanted tokens.

        Raises:
            EngineError: The computation failed.
        """
        ...

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence share all of another one's tokens."""
        ...

    def drop(self, sequence: int) -> None:
        """Forget a sequence; tokens that others share stay."""
        ...

    def save(self, sequence: int) -> bytes:
        """Return the keys and values of a sequence."""
        ...

    def restore(self, sequence: int, state: bytes) -> None:
        """Fill an empty sequence with what `save` returned.

        Raises:
            EngineError: The library refuses it.
        """
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class DecoderModule(Protocol):
    """What a module of `language.DECODERS` offers."""

    @staticmethod
    def find_spot(device: str) -> Spot:
        """Settle "auto", "cpu", "cuda" or "cuda:N", or raise a DeviceError."""
        ...

    @staticmethod
    def open_decoder(
        file: LanguageFile,
        *,
        device: str,
        threads: int,
        context_tokens: int,
        cache_dtype: str,
        adapter: AdapterFile | None,
    ) -> Decoder:
        """Load the model with its adapter and allocate its cache, or raise an EngineError."""
        ...
