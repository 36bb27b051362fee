"""Rounds a language model's matrices to few bits, with ggml's own code."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.backends import llama_binding
from ...runtime.errors import CheckpointError, UnknownNameError, UsageError, require
from ...runtime.language.gguf_file import LanguageFile
from ...runtime.machine import allowed_cores
from .mixture import QUANTIZED, tensor_format
from .writing import FILE_FORMATS, Piece, row_bytes, write_gguf

__all__ = ["quantize", "quantize_rows"]

_LOG = logging.getLogger("saymask")
_WHOLE = ("F32", "F16", "BF16")
"""Formats that may be quantized: rounding twice costs more than rounding once."""
_QUANTIZATION_VERSION = 2
_WEIGHTS_AT_ONCE = 1 << 22


def quantize(
    source: Path,
    out: Path,
    *,
    format: str,
    importance: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
) -> dict[str, str]:
    """Write a GGUF file again with its matrices quantized, one in memory at a time.

    Args:
        source: A file whose matrices are F32, F16 or BF16.
        out: The file to write, which is replaced if it is there.
        format: Key of `mixture.QUANTIZED`; that module says which tensor gets what.
        importance: For each matrix by its name, (columns,) float32 of how much each input counts,
            as `measure_importance` returns; K formats and Q4_0 use it.
        threads: Threads of the CPU; None takes all cores.

    Returns:
        The format of each tensor by its name.

    Raises:
        CheckpointError: A matrix of `source` is quantized already or not finite, or `importance`
            is for another model.
        EngineError: `source` is no language model.
        MissingExtraError: gguf or llama.cpp is not installed.
        OSError: The file can't be written.
        UnknownNameError: There is no such format.
        UsageError: `threads` is below 1.
    """
    if format not in QUANTIZED:
        raise UnknownNameError("format", format, QUANTIZED)
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1; got {threads}")
    gguf = require("gguf", extra="export")
    layers = LanguageFile(source).spec.layers
    reader = gguf.GGUFReader(source)
    _check_source(source, reader, importance or {})
    # ggml's code holds no lock of Python's, so that threads work side by side.
    with ThreadPoolExecutor(threads or allowed_cores()) as run:
        pieces = [
            _piece(tensor, format, layers, (importance or {}).get(tensor.name), run)
            for tensor in reader.tensors
        ]
        architecture = reader.get_field("general.architecture").contents()
        describe = partial(_describe, reader=reader, file_format=format)
        write_gguf(out, architecture, describe, pieces)
    return {piece.name: piece.format for piece in pieces}


def quantize_rows(
    rows: np.ndarray, format: str, importance: np.ndarray | None = None
) -> np.ndarray:
    """Quantize (n, columns) float32 into (n, bytes of a row) uint8 as ggml does.

    Args:
        rows: Whole blocks of finite weights.
        format: ggml's name, "Q4_K" say.
        importance: (columns,) float32 weights of the squared errors.

    Raises:
        EngineError: The installed llama.cpp is of another version.
        MissingExtraError: gguf or llama.cpp is not installed.
    """
    gguf = require("gguf", extra="export")
    function = llama_binding.load().call.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    rows = np.ascontiguousarray(rows, np.float32)
    count, columns = rows.shape
    found = np.empty((count, row_bytes(format, columns)), np.uint8)
    factors = None if importance is None else np.ascontiguousarray(importance, np.float32)
    function(
        ctypes.c_int(gguf.GGMLQuantizationType[format]),
        ctypes.c_void_p(rows.ctypes.data),
        ctypes.c_void_p(found.ctypes.data),
        ctypes.c_int64(0),
        ctypes.c_int64(count),
        ctypes.c_int64(columns),
        ctypes.c_void_p(None if factors is None else factors.ctypes.data),
    )
    return found


def _check_source(source: Path, reader: Any, importance: Mapping[str, np.ndarray]) -> None:
    formats = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    rounded = sorted({kind for kind in formats.values() if kind not in _WHOLE})
    foreign = [name for name, it in importance.items() if [len(it)] != shapes.get(name, [])[:1]]
    if rounded or foreign:
        raise CheckpointError(
            f"{source} must hold {', '.join(_WHOLE)}, and the importance be that of its matrices; "
            f"it holds {rounded or 'such'}, and {foreign[:8] or 'nothing'} is of another model; "
            "convert the checkpoint again, and measure the importance with what comes out"
        )


def _piece(
    tensor: Any,
    file_format: str,
    layers: int,
    importance: np.ndarray | None,
    run: ThreadPoolExecutor,
) -> Piece:
    shape = tuple(tensor.shape.tolist()[::-1])
    wanted = tensor_format(tensor.name, shape, file_format, layers)
    usual = tensor_format(tensor.name, (256,) * len(shape), file_format, layers)
    if wanted != usual:
        _LOG.warning(
            "%s has rows of %d weights, which %s can't hold: it becomes %s",
            tensor.name, shape[-1], usual, wanted,
        )  # fmt: skip
    make = partial(_quantized, tensor, wanted, importance, run)
    return Piece(name=tensor.name, shape=shape, format=wanted, make=make)


def _quantized(
    tensor: Any, format: str, importance: np.ndarray | None, run: ThreadPoolExecutor
) -> np.ndarray:
    """Quantize some rows at a time, so that few of them are float32 at once."""
    table = tensor.data.reshape(-1, tensor.data.shape[-1])
    count = max(1, _WEIGHTS_AT_ONCE // int(tensor.shape[0]))
    one = partial(_some_rows, tensor, table, format, importance)
    parts = run.map(one, [slice(at, at + count) for at in range(0, len(table), count)])
    return np.concatenate(list(parts))


def _some_rows(
    tensor: Any, table: np.ndarray, format: str, importance: np.ndarray | None, rows: slice
) -> np.ndarray:
    quants = require("gguf.quants", extra="export")
    weights = quants.dequantize(table[rows], tensor.tensor_type)
    if format == "F16":
        with np.errstate(over="ignore"):  # What overflows is refused below.
            weights = weights.astype(np.float16)
    if not np.isfinite(weights).all():
        raise CheckpointError(
            f"weights must be finite as {format}; some of {tensor.name} are not; take another "
            "format, or convert the checkpoint again"
        )
    if format in {"F32", "F16"}:
        return weights
    return quantize_rows(weights, format, importance)


def _describe(writer: Any, *, reader: Any, file_format: str) -> None:
    """Copy all metadata but what the file's format changes and the writer adds itself."""
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in {
            "general.architecture", "general.file_type", "general.quantization_version",
        }:  # fmt: skip
            continue
        kind, *inner = field.types
        writer.add_key_value(name, field.contents(), kind, inner[-1] if inner else None)
    writer.add_file_type(FILE_FORMATS[file_format])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
