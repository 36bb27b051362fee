"""Queries and keys are rounded once, where they arise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration.attention import attention_tensors, round_attention
from saymask.calibration.plan import NodePlan, plan_nodes
from saymask.calibration.ranges import Range, observe
from saymask.calibration.static import quantize_static, quantized_tensors

HEADS = """
<ir_version: 9, opset_import: ["" : 20]>
heads (float[1,6,8] x) => (float[1,6,8] y) {
  [q] q = MatMul (x, q_w)
  [k] k = MatMul (x, k_w)
  [q_heads] qh = Reshape (q, split)
  [q_turn] qt = Transpose <perm=[0,2,1,3]> (qh)
  [k_heads] kh = Reshape (k, split)
  [k_turn] kt = Transpose <perm=[0,2,3,1]> (kh)
  [v_heads] vh = Reshape (x, split)
  [v_turn] vt = Transpose <perm=[0,2,1,3]> (vh)
  [logits] l = MatMul (qt, kt)
  [hidden] lb = Add (l, bias)
  [weights] p = Softmax <axis=-1> (lb)
  [mix] z = MatMul (p, vt)
  [z_turn] zt = Transpose <perm=[0,2,1,3]> (z)
  [z_flat] y = Reshape (zt, whole)
}
"""


@pytest.fixture
def heads(build) -> onnx.ModelProto:
    return build(HEADS, **_constants())


def _constants() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "q_w": generator.normal(size=(8, 8)).astype(np.float32),
        "k_w": generator.normal(size=(8, 8)).astype(np.float32),
        "split": np.array([0, 0, 2, 4]),
        "whole": np.array([0, 0, 8]),
        "bias": np.zeros((1, 1, 1, 6), np.float32),
    }


def test_they_are_named_before_heads_are_split(heads, tokens):
    assert attention_tensors(heads, plan_nodes(heads)) == ("q", "k")
    assert attention_tensors(tokens, plan_nodes(tokens)) == ("q", "k")


def test_a_graph_without_attention_has_none(convolutions):
    plan = plan_nodes(convolutions)
    assert attention_tensors(convolutions, plan) == ()
    assert round_attention(convolutions, plan, {}).graph.node == convolutions.graph.node


@pytest.mark.parametrize("lifted", ["q", "k"])
def test_what_fp32_nodes_make_stays_real(tokens, lifted):
    plan = plan_nodes(tokens) | {lifted: NodePlan(precision="fp32", reason="lifted")}
    assert attention_tensors(tokens, plan) == ()
    assert round_attention(tokens, plan, {}).graph.node == tokens.graph.node


def test_what_no_product_makes_stays_real(build):
    """Queries that are the graph's input have no plan."""
    text = HEADS.replace("[q] q = MatMul (x, q_w)", "[q] q = Identity (x)")
    model = build(text, **_constants())
    assert attention_tensors(model, plan_nodes(model)) == ()


def test_small_numbers_move_through_the_split(heads):
    ranges = {"q": Range(low=-3, high=2), "k": Range(low=-1, high=4)}
    rounded = round_attention(heads, plan_nodes(heads), ranges)
    onnx.checker.check_model(rounded, full_check=True)
    reads = {node.name: node.input[0] for node in rounded.graph.node}
    assert (reads["q_heads"], reads["k_heads"]) == ("q_rounded", "k_rounded")
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in rounded.graph.initializer}
    assert constants["q_scale"] == pytest.approx(3 / 127, rel=1e-3)
    assert constants["k_scale"] == pytest.approx(4 / 127, rel=1e-3)
    assert constants["zero_attention"].dtype == np.int8


def test_it_goes_with_static_int8(tokens, sentences, cosine):
    plan = plan_nodes(tokens)
    wanted = (*quantized_tensors(tokens, plan), *attention_tensors(tokens, plan))
    histograms = observe(tokens, sentences, dict.fromkeys(wanted))
    ranges = {name: histogram.range(100) for name, histogram in histograms.items()}
    rounded = quantize_static(round_attention(tokens, plan, ranges), plan, ranges)
    onnx.checker.check_model(rounded, full_check=True)
    assert cosine(rounded, tokens, sentences) > 0.99
