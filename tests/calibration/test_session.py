"""Models open as the runtime opens them."""

from __future__ import annotations

import pytest

from saymask.calibration import session
from saymask.runtime.errors import EngineError
from saymask.runtime.spec import TensorSpec


def test_arrays_in_arrays_out(convolutions, images):
    engine = session.open_model(convolutions, threads=1)
    assert engine.device == "cpu"
    outputs = engine.run(images[0])
    assert outputs["embedding"].shape == (1, 16, 8, 8)
    with pytest.raises(EngineError, match="takes image"):
        engine.run({"picture": images[0]["image"]})


def test_inner_tensors_are_exposed(convolutions, images):
    engine = session.open_model(convolutions, threads=1, expose=["b", "g"])
    outputs = engine.run(images[0])
    assert {name: array.shape for name, array in outputs.items()} == {
        "b": (1, 16, 16, 16),
        "g": (1, 32, 8, 8),
    }


def test_executed_ops_are_after_fusion(convolutions):
    ops = session.executed_ops(convolutions)
    assert ops["Conv"] == 6
    assert ops["Relu"] == 0


def test_varying_axes_keep_their_names(build):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        net (int64[phrases, tokens, 3] ids, float[] x) => (int64[phrases, tokens, 3] y, float[] z) {
          [copy] y = Identity (ids)
          [same] z = Identity (x)
        }
        """
    )
    model.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    assert session.tensors_from_values(model.graph.input) == (
        TensorSpec(name="ids", dtype="int64", shape=("phrases", "ids_1", 3)),
        TensorSpec(name="x", dtype="float32", shape=()),
    )
