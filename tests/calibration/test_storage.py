"""What was saved is what is loaded, in one file or two."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from saymask.calibration.graph import Graph
from saymask.calibration.storage import save


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
