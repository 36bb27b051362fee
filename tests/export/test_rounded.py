"""Where a GPU has FP16, the graph that stands in for it on a CPU rounds and overflows alike."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from saymask.calibration.session import open_model
from saymask.export.halve import element_types, halve
from saymask.export.rounded import rounded

CHAIN = """
<ir_version: 9, opset_import: ["" : 20]>
chain (float[2,2] x) => (float[2,2] y) <float[1] a = {300.0}, float[1] b = {0.001}>
{ [first] p = Mul (x, a)
  [second] q = Mul (p, a)
  [moved] r = Transpose (q)
  [third] y = Mul (r, b) }
"""


@pytest.fixture
def chain() -> onnx.ModelProto:
    return onnx.parser.parse_model(CHAIN)


def _run(model: onnx.ModelProto, x: float) -> float:
    return open_model(model, threads=1).run({"x": np.full((2, 2), x, np.float32)})["y"][0, 0]


def test_what_overflows_on_a_gpu_overflows_here(chain):
    assert _run(rounded(halve(chain)), 3) == np.inf
    assert np.isfinite(_run(halve(chain), 3))  # The reason that `rounded` is there.
    assert _run(rounded(halve(chain)), 0.3) < np.inf


@pytest.mark.parametrize("x", [0.1, 0.29, 0.0001, 1e-9])
def test_every_result_is_rounded(chain, x):
    half = np.float16(x)
    wanted = half * np.float16(300) * np.float16(300) * np.float16(0.001)
    assert _run(rounded(halve(chain)), x) == np.float32(wanted)


def test_only_casts_are_in_fp16_and_movers_round_nothing(chain):
    model = rounded(halve(chain))
    types = element_types(model)
    made = {
        node.op_type for node in model.graph.node if types[node.output[0]] == TensorProto.FLOAT16
    }
    assert made == {"Cast"}
    assert all(each.data_type == TensorProto.FLOAT for each in model.graph.initializer)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    rounded_results = [node for node in casts if node.name.startswith("round_")]
    assert len(rounded_results) == 4  # The input, and each product.
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_a_system_stays_near_fp32_and_within_fp16s_steps(graphs):
    generator = np.random.default_rng(0)
    model = graphs["image"]
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {model.graph.input[0].name: generator.normal(size=shape).astype(np.float32)}
    exact, half = (
        np.concatenate([each.ravel() for each in open_model(it, threads=1).run(feed).values()])
        for it in (model, rounded(halve(model)))
    )
    assert 1e-5 < np.abs(exact - half).max() < 0.05 * np.abs(exact).max()
