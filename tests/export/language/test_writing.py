from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from saymask.export.language.writing import Piece, row_bytes, write_gguf


def _describe(writer: Any) -> None:
    writer.add_uint32("llama.block_count", 1)


def _piece(name: str, format: str, array: np.ndarray, made: list[str]) -> Piece:
    def make() -> np.ndarray:
        made.append(name)
        return array

    return Piece(name=name, shape=(2, 32), format=format, make=make)


@pytest.mark.parametrize(("format", "size"), [("F32", 1024), ("Q8_0", 272), ("Q6_K", 210)])
def test_rows_are_whole_blocks(format: str, size: int) -> None:
    assert row_bytes(format, 256) == size


def test_tensors_are_made_in_their_order_when_they_are_written(tmp_path: Path) -> None:
    made: list[str] = []
    values = np.arange(64, dtype=np.float32).reshape(2, 32)
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    pieces = [_piece("b", "F32", values, made), _piece("a", "Q8_0", blocks, made)]
    out = tmp_path / "new" / "model.gguf"
    write_gguf(out, "llama", _describe, pieces)
    assert made == ["b", "a"]
    first, second = gguf.GGUFReader(out).tensors
    np.testing.assert_array_equal(first.data, values)
    np.testing.assert_array_equal(second.data, blocks)


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    out.write_bytes(b"old")

    def fail() -> np.ndarray:
        raise ValueError("no weights")

    piece = Piece(name="a", shape=(2, 32), format="F32", make=fail)
    with pytest.raises(ValueError, match="no weights"):
        write_gguf(out, "llama", _describe, [piece])
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]
