"""What was saved is what is loaded, in one file or two."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from saymask.calibration.graph import Graph
from saymask.calibration.storage import read, save, spill


def test_small_models_are_one_file(convolutions, tmp_path):
    files = save(convolutions, tmp_path / "model.onnx")
    assert files == list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]
    assert onnx.load(files[0]) == Graph(convolutions).model()


def test_large_weights_lie_beside_the_graph(convolutions, images, tmp_path):
    before = convolutions.SerializeToString()
    files = save(convolutions, tmp_path / "model.onnx", inline_bytes=1000)
    assert convolutions.SerializeToString() == before
    assert files == [tmp_path / "model.onnx", tmp_path / "model.onnx.data"]
    assert files[0].stat().st_size < 0.2 * files[1].stat().st_size
    onnx.checker.check_model(files[0], full_check=True)
    whole, parted = (
        onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        for source in (before, str(files[0]))
    )
    np.testing.assert_array_equal(whole.run(None, images[0])[0], parted.run(None, images[0])[0])


def test_weights_that_stay_on_disk_are_the_same(convolutions, images, tmp_path):
    spilled = spill(convolutions, tmp_path / "spilled.onnx")
    assert spilled.ByteSize() < 0.5 * convolutions.ByteSize()
    before, after = Graph(Graph(convolutions).model()), Graph(spilled)
    assert after.constants.keys() == before.constants.keys()
    for name in before.constants:
        np.testing.assert_array_equal(after.array(name), before.array(name))
    [whole] = save(spilled, tmp_path / "whole.onnx")
    assert onnx.load(whole) == Graph(convolutions).model()
    assert read(whole) == before.model()
    again, beside = save(spilled, tmp_path / "again.onnx", inline_bytes=0)
    assert beside.read_bytes() == (tmp_path / "spilled.onnx.data").read_bytes()
    session = onnxruntime.InferenceSession(str(again), providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, images[0])[0]).all()
