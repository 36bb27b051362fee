"""What may be read, and where a reader pauses."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.runtime.errors import PromptError
from saymask.runtime.language.gguf_file import LanguageFile
from saymask.runtime.language.parts import as_array, as_positions, stretches

from .. import tiny_gguf


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return LanguageFile(tiny_gguf.write(tmp_path_factory.mktemp("model") / "tiny.gguf")).spec


def test_arrays(spec):
    for part in ([1, 2], (1, 2), np.array([1, 2], np.uint8), range(1, 3)):
        array = as_array(part, spec)
        assert (array.dtype, array.tolist()) == (np.int32, [1, 2])
    assert as_array([], spec).shape == (0,)
    vectors = as_array(np.ones((64, 3)).T, spec)
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, 64))
    assert vectors.flags.c_contiguous


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ([5, -1], "token ids must be from 0 to 399; got -1"),
        ([400], "got 400; encode words with this engine"),
        ([1.5], r"list of token ids or an array \(n, 64\) of vectors; got float64 \(1,\)"),
        ("red", "encode words with the engine's tokens"),
        ([[1, 2], [3]], r"list of token ids or an array .*; got object \(2,\)"),
        ([[1, 2]], r"vectors must be floats \(n, 64\); got int64 \(1, 2\)"),
        (np.ones((2, 63)), r"must be floats \(n, 64\); got float64 \(2, 63\)"),
        (np.ones((2, 64, 1)), r"got float64 \(2, 64, 1\)"),
        (np.full((2, 64), np.nan), "vectors must be finite; got 128 numbers that are not"),
        (np.full((1, 64), np.inf), "vectors must be finite; got 64 numbers"),
        (np.full((1, 64), 1e300), "vectors must be finite"),
    ],
)
def test_wrong_parts(spec, part, message):
    with pytest.raises(PromptError, match=message):
        as_array(part, spec)


def test_positions():
    assert as_positions([0, -1, 2, -3], 3) == [0, 2, 2, 0]
    for at in (3, -4):
        with pytest.raises(PromptError, match=f"from -3 to 2 in 3 tokens; got {at}"):
            as_positions([at], 3)


def test_stretches_are_all_wanted_or_not():
    arrays = [np.arange(3), np.empty(0, int), 3 + np.arange(4)]
    found = [(start, piece.tolist()) for start, piece in stretches(arrays, {1, 2, 3, 6})]
    assert found == [(0, [0]), (1, [1, 2]), (3, [3]), (4, [4, 5]), (6, [6])]
    assert list(stretches([], {1})) == []
