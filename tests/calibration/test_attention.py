"""Queries, keys and values are rounded once, where they arise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration.attention import attention_tensors, round_attention
from saymask.calibration.plan import plan_nodes
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
    generator = np.random.default_rng(0)
    return build(
        HEADS,
        q_w=generator.normal(size=(8, 8)).astype(np.float32),
        k_w=generator.normal(size=(8, 8)).astype(np.float32),
        split=np.array([0, 0, 2, 4]),
        whole=np.array([0, 0, 8]),
        bias=np.zeros((1, 1, 1, 6), np.float32),
    )


def test_they_are_named_before_heads_are_split(heads, tokens):
    assert attention_tensors(heads) == ("q", "k")  # The graph's input has no node behind it.
    assert attention_tensors(tokens) == ("q", "k", "v")


def test_a_graph_without_attention_has_none(convolutions):
    assert attention_tensors(convolutions) == ()
    assert round_attention(convolutions, {}).graph.node == convolutions.graph.node


def test_small_numbers_move_through_the_split(heads):
    ranges = {"q": Range(low=-3, high=2), "k": Range(low=-1, high=4)}
    rounded = round_attention(heads, ranges)
    onnx.checker.check_model(rounded, full_check=True)
    reads = {node.name: node.input[0] for node in rounded.graph.node}
    assert (reads["q_heads"], reads["k_heads"]) == ("q_rounded", "k_rounded")
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in rounded.graph.initializer}
    assert constants["q_scale"] == pytest.approx(3 / 127, rel=1e-3)
    assert constants["k_scale"] == pytest.approx(4 / 127, rel=1e-3)
    assert constants["zero_attention"].dtype == np.int8


def test_it_goes_with_static_int8(tokens, sentences, cosine):
    plan, names = plan_nodes(tokens), attention_tensors(tokens)
    wanted = (*quantized_tensors(tokens, plan), *names)
    histograms = observe(tokens, sentences, dict.fromkeys(wanted))
    ranges = {name: histogram.range(100) for name, histogram in histograms.items()}
    rounded = quantize_static(round_attention(tokens, ranges), plan, ranges)
    onnx.checker.check_model(rounded, full_check=True)
    assert cosine(rounded, tokens, sentences) > 0.99
