from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saymask.export.language.conversion import convert
from saymask.export.language.importance import measure_importance
from saymask.runtime.backends.llama_reference import ReferenceDecoder
from saymask.runtime.errors import PromptError
from saymask.runtime.language.decoder import Batch
from saymask.runtime.language.gguf_file import LanguageFile

from .checkpoints import need_llama_cpp, write_folder

RNG = np.random.default_rng(0)
READINGS = (
    [RNG.integers(3, 390, 30), RNG.normal(size=(9, 64)).astype(np.float32), [5, 6, 7]],
    [[8]],
)
"""Words around a picture, and a single word."""


class _Watching(ReferenceDecoder):
    """Keeps what each matrix is multiplied with."""

    def __init__(self, file: LanguageFile) -> None:
        super().__init__(file, "float32")
        self.inputs: dict[str, list[np.ndarray]] = {}

    def _linear(self, states: np.ndarray, name: str) -> np.ndarray:
        self.inputs.setdefault(f"{name}.weight", []).append(states)
        return super()._linear(states, name)


def _expected(path: Path, last: str) -> dict[str, np.ndarray]:
    file = LanguageFile(path)
    decoder = _Watching(file)
    for at, reading in enumerate(READINGS):
        start = 0
        for part in map(np.asarray, reading):
            count = len(part)
            everything: dict[str, Any] = {"wanted": np.ones(count, bool), "has_hidden": True}
            batch = Batch(
                inputs=part,
                positions=np.arange(start, start + count),
                sequences=np.full(count, at),
                **everything,
            )
            hidden, _ = decoder.decode(batch)
            decoder.inputs.setdefault(last, []).append(np.asarray(hidden))
            start += count
    return {
        name: np.square(np.concatenate(inputs)).mean(axis=0)
        for name, inputs in decoder.inputs.items()
    }


@pytest.mark.parametrize("is_tied", [False, True])
def test_inputs_are_those_of_the_reference(tmp_path: Path, is_tied: bool) -> None:
    need_llama_cpp()
    folder = write_folder(tmp_path / "model", tie_word_embeddings=is_tied)
    convert(folder, tmp_path / "model.gguf", format="F32")
    found = measure_importance(tmp_path / "model.gguf", READINGS)
    last = "token_embd.weight" if is_tied else "output.weight"
    expected = _expected(tmp_path / "model.gguf", last)
    assert found.keys() == expected.keys()
    assert len(found) == 15
    # llama.cpp keeps keys and values as float16 meanwhile.
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=5e-3)


@pytest.mark.parametrize("readings", [[], [[]], [[[9999]]]])
def test_there_must_be_something_to_read(tmp_path: Path, readings: Any) -> None:
    need_llama_cpp()
    convert(write_folder(tmp_path / "model"), tmp_path / "model.gguf")
    with pytest.raises(PromptError, match="must be"):
        measure_importance(tmp_path / "model.gguf", readings)
