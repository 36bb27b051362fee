from __future__ import annotations

import logging
from pathlib import Path

import gguf
import numpy as np
import pytest

from saymask.export.language.conversion import convert
from saymask.export.language.mixture import QUANTIZED
from saymask.export.language.quantization import quantize, quantize_rows
from saymask.runtime.errors import CheckpointError, UnknownNameError, UsageError
from saymask.runtime.language.gguf_file import LanguageFile
from saymask.runtime.language.opening import open_language

from .checkpoints import (
    byte_pair_tokenizer,
    llama_config,
    need_llama_cpp,
    random_weights,
    write_folder,
)

ERRORS = {"F16": 3e-4, "Q8_0": 6e-3, "Q6_K": 0.019, "Q5_K": 0.037, "Q4_K": 0.074, "Q4_0": 0.09}
"""Root mean square error of normal weights in parts of their own, at most."""


@pytest.fixture(scope="module", autouse=True)
def _has_llama_cpp() -> None:
    need_llama_cpp()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are whole blocks of 256 weights."""
    folder = tmp_path_factory.mktemp("source")
    made = write_folder(
        folder / "model", hidden_size=256, intermediate_size=512, num_hidden_layers=3
    )
    convert(made, folder / "model.gguf", format="F32")
    return folder / "model.gguf"


def _restored(rows: np.ndarray, format: str, importance: np.ndarray | None = None) -> np.ndarray:
    blocks = quantize_rows(rows, format, importance)
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[format])


def _normal(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (64, 512)).astype(np.float32)


@pytest.mark.parametrize("format", [kind for kind in ERRORS if kind != "F16"])
def test_rows_come_back_with_little_error(format: str) -> None:
    rows = _normal()
    error = _restored(rows, format) - rows
    assert np.sqrt((error**2).mean() / (rows**2).mean()) < ERRORS[format]


@pytest.mark.parametrize("format", ["Q4_0", "Q8_0"])
def test_simple_formats_are_those_of_numpy(format: str) -> None:
    rows = _normal()
    theirs = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[format])
    theirs = gguf.quants.dequantize(theirs, gguf.GGMLQuantizationType[format])
    # ggml scales in another order, so that a weight between two values may go to the other one.
    assert np.abs(_restored(rows, format) - theirs).mean() < 1e-4


@pytest.mark.parametrize("format", ["Q4_0", "Q4_K", "Q5_K", "Q6_K"])
def test_important_columns_come_back_better(format: str) -> None:
    rows = _normal()
    importance = np.where(np.arange(512) % 8, 0.01, 1.0).astype(np.float32)
    plain, weighted = (
        ((_restored(rows, format, it) - rows) ** 2 @ importance).sum() for it in (None, importance)
    )
    assert weighted < 0.95 * plain


@pytest.mark.parametrize("format", ["Q4_0", "Q4_K", "Q5_K", "Q6_K"])
def test_columns_that_never_counted_stay_finite(format: str) -> None:
    importance = np.zeros(512, np.float32)
    assert np.isfinite(_restored(_normal(), format, importance)).all()


@pytest.mark.parametrize("format", QUANTIZED)
def test_llama_cpp_runs_each_format(source: Path, tmp_path: Path, format: str) -> None:
    kinds = quantize(source, tmp_path / "model.gguf", format=format, threads=1)
    assert kinds["blk.0.attn_q.weight"] == QUANTIZED[format]
    ids = np.arange(3, 60)
    logits = []
    for path in (source, tmp_path / "model.gguf"):
        with open_language(path, context_tokens=64, device="cpu", threads=1) as engine:
            logits.append(engine.prefill([ids], at=range(len(ids))).outputs.logits)
            assert engine.embeddings([5]).shape == (1, 256)
    whole, rounded = logits
    error = np.sqrt(((rounded - whole) ** 2).mean() / (whole**2).mean())
    assert error < 20 * ERRORS[QUANTIZED[format]]


def test_all_that_is_known_of_the_model_is_kept(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "model", tokenizer=byte_pair_tokenizer("llama-bpe"),
        settings={"chat_template": "{{ it }}", "add_bos_token": True},
    )  # fmt: skip
    convert(folder, tmp_path / "whole.gguf", format="BF16")
    quantize(tmp_path / "whole.gguf", tmp_path / "small.gguf", format="Q8_0", threads=1)
    whole, small = (LanguageFile(tmp_path / f"{name}.gguf").metadata for name in ("whole", "small"))
    assert (whole.pop("general.file_type"), small.pop("general.file_type")) == (32, 7)
    assert small.pop("general.quantization_version") == 2
    assert whole.keys() == small.keys()
    for key, value in whole.items():
        np.testing.assert_array_equal(small[key], value)


def test_threads_change_nothing(source: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        quantize(source, tmp_path / f"{threads}.gguf", format="Q4_0", threads=threads)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()


def test_narrow_rows_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "model")
    convert(folder, tmp_path / "whole.gguf")
    with caplog.at_level(logging.WARNING, "saymask"):
        kinds = quantize(tmp_path / "whole.gguf", tmp_path / "small.gguf", format="Q4_K_M")
    assert kinds["blk.0.attn_q.weight"] == "Q5_0"
    assert "blk.0.attn_q.weight has rows of 64 weights, which Q4_K can't hold" in caplog.text


def test_what_is_quantized_already_is_refused(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "small.gguf", format="Q8_0", threads=1)
    with pytest.raises(CheckpointError, match=r"it holds \['Q8_0'\]"):
        quantize(tmp_path / "small.gguf", tmp_path / "smaller.gguf", format="Q4_0")


def test_what_half_precision_can_not_hold_is_refused(tmp_path: Path) -> None:
    weights = random_weights(llama_config())
    weights["lm_head.weight"][3, 4] = 1e6
    convert(write_folder(tmp_path / "model", weights=weights), tmp_path / "a.gguf", format="F32")
    with pytest.raises(CheckpointError, match=r"finite as F16; some of output\.weight"):
        quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", format="F16")
    assert not (tmp_path / "b.gguf").exists()


@pytest.mark.parametrize(("name", "columns"), [("blk.9.attn_q.weight", 256), ("output.weight", 64)])
def test_importance_of_another_model_is_refused(
    source: Path, tmp_path: Path, name: str, columns: int
) -> None:
    importance = {name: np.ones(columns, np.float32)}
    with pytest.raises(CheckpointError, match=f"{name}.* is of another model"):
        quantize(source, tmp_path / "small.gguf", format="Q4_0", importance=importance)


def test_nonsense_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="format must be one of"):
        quantize(source, tmp_path / "small.gguf", format="Q2_K")
    with pytest.raises(UsageError, match="threads must be at least 1"):
        quantize(source, tmp_path / "small.gguf", format="Q4_0", threads=0)
