"""Writes a GGUF file tensor by tensor, so that one of them is held at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.errors import require

__all__ = ["FILE_FORMATS", "Piece", "row_bytes", "write_gguf"]

FILE_FORMATS = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "BF16": 32,
}  # fmt: skip
"""Formats of a file, and llama.cpp's numbers of them (`general.file_type`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A tensor that is made when it is written."""

    name: str
    """What GGUF calls it."""
    shape: tuple[int, ...]
    """Rows first."""
    format: str
    """ggml's name of its format, "Q4_K" say."""
    make: Callable[[], np.ndarray]
    """Returns its bytes, as an array of any dtype in C order."""


def row_bytes(format: str, columns: int) -> int:
    """Return the bytes of a row of so many weights in ggml's `format`."""
    gguf = require("gguf", extra="export")
    weights, size_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[format]]
    return columns // weights * size_bytes


def write_gguf(
    out: Path, architecture: str, describe: Callable[[Any], None], pieces: Sequence[Piece]
) -> None:
    """Write a file under another name first, which it takes when it is whole.

    Args:
        out: Where it goes; what is there already is replaced.
        architecture: Value of `general.architecture`.
        describe: Adds the metadata to a gguf.GGUFWriter.
        pieces: The tensors in their order in the file.

    Raises:
        MissingExtraError: gguf is not installed.
        OSError: The file cannot be written.
    """
    gguf = require("gguf", extra="export")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    writer = gguf.GGUFWriter(str(partial), architecture)
    try:
        describe(writer)
        for piece in pieces:
            *rows, columns = piece.shape
            writer.add_tensor_info(
                piece.name,
                piece.shape,
                np.dtype(np.float32),
                int(np.prod(rows)) * row_bytes(piece.format, columns),
                gguf.GGMLQuantizationType[piece.format],
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for piece in pieces:
            writer.write_tensor_data(piece.make())
        writer.close()
        partial.replace(out)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)
