"""A model's safetensors files: which tensors lie where, and the small ones' values."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import EngineError

__all__ = ["StoredTensor", "stored_tensors"]

_FILE = "model.safetensors"
_INDEX = f"{_FILE}.index.json"
_BYTES = {"U8": 1, "I8": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "F32": 4, "I64": 8}
_FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4"}
_MAX_HEADER_BYTES = 100_000_000
"""What the format allows."""
_DAMAGE = (OSError, struct.error, ValueError, LookupError, TypeError, AttributeError)
"""What reading a damaged file raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies."""

    dtype: str
    """As the format calls it, for example "F16" or "F8_E4M3"."""
    shape: tuple[int, ...]
    """Extents."""
    file: Path
    """The file that holds it."""
    start: int
    """Its first byte there."""

    def floats(self) -> np.ndarray:
        """Read it as float32; it must be F16, BF16 or F32."""
        stored = np.fromfile(
            self.file, _FLOATS[self.dtype], math.prod(self.shape), offset=self.start
        )
        if self.dtype == "BF16":  # The upper half of a float32.
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32).reshape(self.shape)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Find all tensors of model.safetensors, or of the shards that its index names.

    Raises:
        EngineError: A file is missing or damaged, or has elements of an unknown kind.
    """
    index = folder / _INDEX
    try:
        names = json.loads(index.read_text("utf-8"))["weight_map"] if index.is_file() else None
        files = [folder / name for name in sorted(set(names.values()))] if names else None
    except _DAMAGE as error:
        raise EngineError(f"{index} must name each tensor's file: {error!r}; copy it again") from (
            error
        )
    found: dict[str, StoredTensor] = {}
    for file in files or [folder / _FILE]:
        try:
            found |= _of_file(file)
        except _DAMAGE as error:
            raise EngineError(
                f"{file} must be a whole safetensors file: {error!r}; copy it again"
            ) from error
    return found


def _of_file(file: Path) -> dict[str, StoredTensor]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"its header has {length} bytes")
        header = json.loads(opened.read(length))
    size = file.stat().st_size - 8 - length
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        shape = tuple(map(int, entry["shape"]))
        if not 0 <= start <= stop <= size:
            raise ValueError(f"{name} ends at byte {stop} of {size}")
        if stop - start != math.prod(shape) * _BYTES[entry["dtype"]]:
            raise ValueError(f"{name} has {stop - start} bytes for {entry['dtype']} {shape}")
        tensors[name] = StoredTensor(
            dtype=entry["dtype"], shape=shape, file=file, start=8 + length + start
        )
    return tensors
