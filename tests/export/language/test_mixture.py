from __future__ import annotations

import pytest

from saymask.export.language.mixture import QUANTIZED, tensor_format

MATRIX = (512, 512)


def _finer(name: str, file_format: str, layers: int) -> list[int]:
    """Return the layers whose matrix is Q6_K."""
    found = [
        tensor_format(f"blk.{at}.{name}.weight", MATRIX, file_format, layers)
        for at in range(layers)
    ]
    return [at for at, kind in enumerate(found) if kind == "Q6_K"]


@pytest.mark.parametrize("file_format", ["Q4_K_M", "Q5_K_M"])
@pytest.mark.parametrize("name", ["attn_v", "ffn_down"])
def test_half_of_the_layers_are_finer(name: str, file_format: str) -> None:
    """What llama.cpp's rule gives for LLaMA-3-8B's 32 layers."""
    assert _finer(name, file_format, 32) == [
        0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31,
    ]  # fmt: skip
    assert _finer(name, file_format, 4) == [2, 3]


@pytest.mark.parametrize("name", ["attn_q", "attn_k", "attn_output", "ffn_up", "ffn_gate"])
def test_others_are_as_the_file(name: str) -> None:
    assert _finer(name, "Q4_K_M", 32) == []
    assert len(_finer(name, "Q6_K", 32)) == 32


@pytest.mark.parametrize("file_format", QUANTIZED)
def test_ends_are_finer_and_vectors_whole(file_format: str) -> None:
    ends = [
        tensor_format(name, MATRIX, file_format, 4)
        for name in ("token_embd.weight", "output.weight")
    ]
    even = QUANTIZED[file_format]
    assert ends == ([even, even] if even in {"F16", "Q8_0"} else ["Q8_0", "Q6_K"])
    assert tensor_format("blk.0.attn_norm.weight", (512,), file_format, 4) == "F32"


@pytest.mark.parametrize(
    ("file_format", "columns", "kind"),
    [
        ("Q4_K_M", 896, "Q5_0"), ("Q5_K_M", 896, "Q5_1"), ("Q6_K", 896, "Q8_0"),
        ("Q4_0", 896, "Q4_0"), ("Q4_K_M", 100, "F16"), ("Q8_0", 100, "F16"),
    ],
)  # fmt: skip
def test_narrow_rows_take_what_llama_cpp_takes(file_format: str, columns: int, kind: str) -> None:
    assert tensor_format("blk.0.attn_q.weight", (64, columns), file_format, 4) == kind
