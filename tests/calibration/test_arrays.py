"""Arrays on disk come back as they were."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from saymask.calibration.arrays import StoredArrays

ARRAYS = {
    "/block.0/attn/MatMul_output_0": np.arange(12, dtype=np.float32).reshape(3, 4),
    "mask": np.array([[True, False]]),
    "ids": np.array(7),
    "nothing": np.zeros((0, 3), np.int64),
}


def test_there_and_back(tmp_path):
    StoredArrays.write(tmp_path / "run", ARRAYS)
    found = StoredArrays(tmp_path / "run")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(KeyError):
        found["other"]


def test_a_look_is_a_map_of_the_file_and_changes_nothing(tmp_path):
    found = StoredArrays.write(tmp_path / "run", ARRAYS)
    seen = found["/block.0/attn/MatMul_output_0"]
    assert isinstance(seen, np.memmap)
    seen[:] = 0
    assert found["/block.0/attn/MatMul_output_0"].sum() == 66


def test_it_replaces_what_was_there(tmp_path):
    StoredArrays.write(tmp_path / "run", ARRAYS)
    assert list(StoredArrays.write(tmp_path / "run", {"x": np.ones(3)})) == ["x"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["0.npy", "names.json"]


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path):
    shutil.copytree(StoredArrays.write(tmp_path / "x", ARRAYS).folder, tmp_path / "run.partial")
    StoredArrays.write(tmp_path / "run", {"x": np.ones(3)})
    assert not (tmp_path / "run.partial").exists()
