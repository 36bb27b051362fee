"""What a device reads of safetensors without the library, against the library."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saymask.runtime.errors import EngineError
from saymask.runtime.language.safetensors_file import stored_tensors

TENSORS = {
    "half": torch.tensor([[1.5, -2.0], [65504.0, 6e-8]], dtype=torch.float16),
    "brain": torch.tensor([1.0, -3.140625, 1e30], dtype=torch.bfloat16),
    "full": torch.tensor(0.1),
    "small": torch.tensor([1.0, 448.0]).to(torch.float8_e4m3fn),
}


@pytest.fixture
def folder(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_what_is_stored(folder):
    found = stored_tensors(folder)
    assert {name: (it.dtype, it.shape) for name, it in found.items()} == {
        "half": ("F16", (2, 2)),
        "brain": ("BF16", (3,)),
        "full": ("F32", ()),
        "small": ("F8_E4M3", (2,)),
    }
    for name in ("half", "brain", "full"):
        np.testing.assert_array_equal(found[name].floats(), TENSORS[name].float().numpy())


def test_shards_are_found_by_their_index(folder):
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    save_file({"other": torch.zeros(3)}, folder / "part-2.safetensors")
    names = {name: "part-1.safetensors" for name in TENSORS} | {"other": "part-2.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert set(stored_tensors(folder)) == {*TENSORS, "other"}
    index.write_text("[]")
    with pytest.raises(EngineError, match="must name each tensor's file"):
        stored_tensors(folder)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "has 4 bytes for F32"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "ends at byte 8 of 4"),
        ({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, "KeyError"),
        ({"a": 5}, "TypeError"),
    ],
)
def test_damage(tmp_path, header, said):
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(4)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(EngineError, match=f"whole safetensors file: .*{said}"):
        stored_tensors(tmp_path)


def test_nothing_there_and_no_such_file(tmp_path):
    with pytest.raises(EngineError, match="FileNotFoundError"):
        stored_tensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 16)
    with pytest.raises(EngineError, match="its header has 18446744073709551615 bytes"):
        stored_tensors(tmp_path)
