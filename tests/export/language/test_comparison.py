from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saymask.export.language.comparison import HEADER, compare_files
from saymask.export.language.conversion import convert
from saymask.runtime.errors import PromptError
from saymask.runtime.language.opening import open_language
from saymask.runtime.language.sampling import log_softmax

from .checkpoints import write_folder

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(5, 64)).astype(np.float32)
READINGS = ([RNG.integers(3, 390, 12), VECTORS, [7, 8, 9]], [VECTORS, [4]])


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    convert(write_folder(tmp_path / "model"), tmp_path / "whole.gguf", format="F32")
    return tmp_path / "whole.gguf"


def test_a_file_agrees_with_itself(whole: Path) -> None:
    """Eleven words and the three behind the picture of the first, and the last one's."""
    first, again = compare_files([whole, whole], READINGS, backend="reference")
    assert first == again
    assert (first.agreement, first.divergence) == (1.0, 0.0)
    logs = []
    with open_language(whole, context_tokens=64, device="cpu", backend="reference") as engine:
        for reading in READINGS:
            items = np.concatenate(
                [np.full(len(part), -1) if np.ndim(part) > 1 else part for part in reading]
            )
            outputs = engine.prefill(reading, at=range(len(items))).outputs
            table = log_softmax(outputs.logits)
            logs += [table[at - 1, it] for at, it in enumerate(items) if at and it >= 0]
    assert len(logs) == 15
    assert first.mean_log == pytest.approx(np.mean(logs), rel=1e-5)
    assert first.perplexity == pytest.approx(np.exp(-np.mean(logs)), rel=1e-5)
    assert len(first.row()) == len(HEADER)


def test_a_rounded_file_differs(tmp_path: Path, whole: Path) -> None:
    convert(tmp_path / "model", tmp_path / "half.gguf", format="BF16")
    first, half = compare_files([whole, tmp_path / "half.gguf"], READINGS, backend="reference")
    assert 0 < half.divergence < 0.01
    assert half.size_bytes < 0.6 * first.size_bytes
    assert half.agreement <= 1


def test_vectors_alone_say_nothing_about_words(whole: Path) -> None:
    with pytest.raises(PromptError, match="must have a token that follows something"):
        compare_files([whole], [[VECTORS]], backend="reference")
