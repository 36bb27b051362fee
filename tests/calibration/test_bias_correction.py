"""Rounding shifts no output on average any more."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration.bias_correction import correct_biases, output_errors
from saymask.calibration.dynamic import quantize_dynamic
from saymask.calibration.plan import NodePlan
from saymask.calibration.ranges import Range
from saymask.calibration.session import open_model
from saymask.calibration.static import quantize_static
from saymask.calibration.symmetric import lower_symmetric
from saymask.runtime.errors import UsageError

PRODUCT = """
<ir_version: 9, opset_import: ["" : 20]>
layer (float[2,20,32] x) => (float[2,20,16] y) {
  [product] p = MatMul (x, w)
  [bias] y = Add (p, b)
}
"""
CONVOLUTION = """
<ir_version: 9, opset_import: ["" : 20]>
layer (float[2,32,6,6] x) => (float[2,16,6,6] y) {
  [product] y = Conv <pads=[1,1,1,1]> (x, w%s)
}
"""
NAMES = ("product", "convolution", "convolution without bias")
PLAN = {"product": NodePlan(precision="int8", reason="")}
# The values below reach to 5: what lies beyond is cut off, which shifts the outputs.
RANGES = {"x": Range(low=0, high=3), "y": Range(low=-40, high=40)}


def _lowered(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    if kind == "dynamic":
        return quantize_dynamic(model, PLAN)
    if kind == "static":
        return quantize_static(model, PLAN, RANGES)
    return lower_symmetric(model, PLAN, RANGES, element="int8")


@pytest.fixture(scope="module")
def layers(build) -> dict[str, onnx.ModelProto]:
    """Networks of one node with weights."""
    generator = np.random.default_rng(10)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape, scale=0.2).astype(np.float32)

    return {
        "product": build(PRODUCT, w=normal(32, 16), b=normal(16)),
        "convolution": build(CONVOLUTION % ", b", w=normal(16, 32, 3, 3), b=normal(16)),
        "convolution without bias": build(CONVOLUTION % "", w=normal(16, 32, 3, 3)),
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in NAMES for kind in ("static", "symmetric")),
        ("product", "dynamic"),
    ],
)
def test_mean_errors_are_taken_off(layers, name, kind):
    layer = layers[name]
    feeds = _feeds(layer)
    lowered = _lowered(layer, kind)
    errors = output_errors(layer, lowered, PLAN, feeds)
    np.testing.assert_allclose(errors["product"], _mean_errors(layer, lowered, feeds), atol=1e-5)
    corrected = _lowered(correct_biases(layer, PLAN, errors), kind)
    left = np.abs(_mean_errors(layer, corrected, feeds))
    assert left.max() < 0.1 * np.abs(errors["product"]).max() + 1e-3


def test_errors_are_each_nodes_own(tokens, sentences):
    """What one node rounds does not show in the error of the next."""
    plans = [
        {name: NodePlan(precision="int8" if name in chosen else "fp32", reason="")
         for name in ("q", "k", "v", "out")}
        for chosen in (("q", "k", "v", "out"), ("out",))
    ]  # fmt: skip
    ranges = {"n": Range(low=-4, high=4), "m": Range(low=-1, high=1)}
    every, last = (
        output_errors(tokens, quantize_static(tokens, plan, ranges), plan, sentences)
        for plan in plans
    )
    assert every.keys() == {"q", "k", "v", "out"}
    assert last.keys() == {"out"}
    np.testing.assert_array_equal(every["out"], last["out"])


@pytest.mark.parametrize("name", NAMES)
def test_lifted_nodes_keep_their_biases(layers, name):
    layer = layers[name]
    lifted = {"product": NodePlan(precision="fp32", reason="it was lifted")}
    corrected = correct_biases(layer, lifted, {"product": np.ones(16)})
    feed = _feeds(layer)[0]
    expected, found = (open_model(each, threads=1).run(feed)["y"] for each in (layer, corrected))
    np.testing.assert_array_equal(found, expected)


def test_real_inputs_are_asked_for(layers):
    layer = layers["product"]
    with pytest.raises(UsageError, match="real inputs"):
        output_errors(layer, _lowered(layer, "static"), PLAN, [])


def _feeds(model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(11)
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    return [{"x": generator.uniform(0, 5, shape).astype(np.float32)} for _ in range(3)]


def _mean_errors(model: onnx.ModelProto, lowered: onnx.ModelProto, feeds: list) -> np.ndarray:
    first, second = open_model(model, threads=1), open_model(lowered, threads=1)
    errors = [second.run(feed)["y"] - first.run(feed)["y"] for feed in feeds]
    others = (0, 1) if errors[0].ndim == 3 else (0, 2, 3)
    return np.mean([error.mean(axis=others) for error in errors], axis=0)
