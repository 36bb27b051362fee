"""The job that runs in ModelOpt's environment reads its texts, and says when it is in another."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from saymask.export.language.tensorrt_llm_job import CONFIGS, MISSING, quantize, texts
from saymask.runtime.language.quantized_folder import ALGORITHMS


def test_texts_come_in_order_with_their_parts(tmp_path):
    for number in range(3):
        vectors = np.full((number + 1, 4), number, np.float32)
        np.savez(tmp_path / f"{number:06d}.npz", np.arange(number), vectors, np.arange(2))
    found = list(texts(tmp_path))
    assert [[part.shape for part in text] for text in found] == [
        [(0,), (1, 4), (2,)],
        [(1,), (2, 4), (2,)],
        [(2,), (3, 4), (2,)],
    ]
    assert found[2][1].max() == 2


def test_it_knows_every_precision():
    assert set(CONFIGS) == set(ALGORITHMS)


@pytest.mark.skipif(bool(importlib.util.find_spec("modelopt")), reason="it is installed here")
def test_another_environment(tmp_path, capsys):
    assert quantize(tmp_path, tmp_path, tmp_path, "fp8") == MISSING
    assert "modelopt" in capsys.readouterr().err
