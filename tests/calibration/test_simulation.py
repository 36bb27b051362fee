"""A bundle that only TensorRT runs is computed on a CPU, file by file the same otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration.simulation import simulate
from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import EngineError
from saymask.runtime.segmenter import Segmenter


def test_fp8_segments(fp8_bundle, frame, tmp_path):
    with pytest.raises(EngineError, match="ONNX Runtime .* refuses"):
        Segmenter.open(fp8_bundle, device="cpu")
    found = simulate(Bundle.read(fp8_bundle), tmp_path / "simulated")
    with Segmenter.open(found.folder, device="cpu", threads=1) as segmenter:
        masks = segmenter.segment(frame, ["the red square", "the blue square"])
    np.testing.assert_allclose(masks.boxes_xyxy, [[10, 20, 50, 60], [70, 30, 110, 70]], atol=4)


def test_only_graphs_of_fp8_are_written_anew(fp8_bundle, tmp_path):
    source = Bundle.read(fp8_bundle)
    found = simulate(source, tmp_path / "simulated")
    before, after = dict(source.manifest.files), dict(found.manifest.files)
    changed = {name for name in before if before[name] != after[name]}
    assert before.keys() == after.keys()
    assert changed - {"golden.npz"} == {"stages/mask.onnx"}  # An NPZ file holds the time.
    assert found.manifest.precision == "fp8"


def test_other_bundles_stay_as_they_are(tiny_bundle, tmp_path):
    found = simulate(Bundle.read(tiny_bundle), tmp_path / "simulated")
    for path in (tiny_bundle / "stages").iterdir():
        assert (found.folder / "stages" / path.name).read_bytes() == path.read_bytes()
