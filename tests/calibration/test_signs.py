"""Turned keys have one hump, and attentions whose queries are read elsewhere stay."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration import quantize
from saymask.calibration.ranges import observe
from saymask.calibration.session import open_model
from saymask.calibration.signs import signed_tensors, turn_keys

ATTENTION = """
<ir_version: 9, opset_import: ["" : 20]>
block (float[2,6,8] tokens) => (float[2,2,6,6] weights, float[2,6,8] other) {
  [q] qm = MatMul (tokens, q_w)
  [q_bias] q = Add (qm, q_b)
  [k] km = MatMul (tokens, k_w)
  [k_bias] k = Add (km, k_b)
  [q_cut] qc = Reshape (q, shape)
  [q_turn] qt = Transpose <perm=[0,2,1,3]> (qc)
  [k_cut] kc = Reshape (k, shape)
  [k_turn] kt = Transpose <perm=[0,2,3,1]> (kc)
  [logits] l = MatMul (qt, kt)
  [softmax] weights = Softmax <axis=-1> (l)
  [elsewhere] other = Identity (%s)
}
"""


@pytest.fixture
def constants() -> dict[str, np.ndarray]:
    """Keys far from zero on either side."""
    generator = np.random.default_rng(8)
    biases = np.where(np.arange(8) % 3, 10, -10).astype(np.float32)
    named = {name: generator.normal(size=(8, 8)).astype(np.float32) for name in ("q_w", "k_w")}
    return named | {"q_b": biases * 0.1, "k_b": biases, "shape": np.array([2, 6, 2, 4])}


@pytest.fixture
def feeds() -> list[dict[str, np.ndarray]]:
    """Inputs of the attention."""
    return [{"tokens": np.random.default_rng(9).normal(size=(2, 6, 8)).astype(np.float32)}]


def test_turned_keys_lie_on_one_side(build, constants, feeds):
    model = build(ATTENTION % "tokens", **constants)
    axes = signed_tensors(model)
    assert axes == {"k": 2}
    found = observe(model, feeds, axes, channel_axes=axes)["k"]
    turned = turn_keys(model, {"k": (found.lows + found.highs) / 2})
    before, after = (open_model(each, threads=1, expose=["k"]) for each in (model, turned))
    humps, hump = (np.array(each.run(feeds[0])["k"]) for each in (before, after))
    np.testing.assert_array_equal(np.abs(hump), np.abs(humps))
    assert np.ptp(hump) < 0.6 * np.ptp(humps)
    expected, weights = (
        open_model(each, threads=1).run(feeds[0])["weights"] for each in (model, turned)
    )
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("elsewhere", ["q", "k"])
def test_what_is_read_elsewhere_stays(build, constants, elsewhere):
    assert signed_tensors(build(ATTENTION % elsewhere, **constants)) == {}


def test_they_are_turned_where_that_is_asked_for(build, constants, feeds):
    model = build(ATTENTION % "tokens", **constants)
    turned, plain = (
        quantize._Stage(model, feeds, quantize.Calibration(transforms=each)).model
        for each in (["signs"], [])
    )
    assert plain == model
    before, after = (open_model(each, threads=1, expose=["k"]) for each in (model, turned))
    humps, hump = (np.array(each.run(feeds[0])["k"]) for each in (before, after))
    assert np.ptp(hump) < 0.6 * np.ptp(humps)
