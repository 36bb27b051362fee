"""Folded graphs compute what they computed, with fewer nodes between the products."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration.fusion import fold_norms, fold_scales, turn_keys, weigh_maps
from saymask.calibration.session import open_model

BLOCK = """
<ir_version: 9, opset_import: ["" : 20]>
block (float[phrases,5,8] x, float[phrases,2,8] words) => (float[phrases,5,4] y%s) {
  [norm] n = LayerNormalization <axis=-1> (x, gamma, beta)
  [q] qm = MatMul (n, q_w)
  [q_bias] qi = Add (qm, q_b)
  [qw] qwm = MatMul (words, k_w)
  [qw_bias] qw = Add (k_b, qwm)
  [joined] qj = Concat <axis=1> (qi, qw)
  [heads] qh = Reshape (qj, split)
  [turn] qt = Transpose <perm=[0,2,1,3]> (qh)
  [scaled] qs = Mul (qt, eighth)
  [back] qb = Transpose <perm=[0,2,1,3]> (qs)
  [flat] qf = Reshape (qb, whole)
  [k] km = MatMul (n, k_w)
  [k_bias] k = Add (k_b, km)
  [kt] kt = Transpose <perm=[0,2,1]> (k)
  [logits] l = MatMul (qf, kt)
  [weights] p = Softmax <axis=-1> (l)
  [mix] z = MatMul (p, k)
  [cut] c = Slice (z, from_0, to_5, axis_1)
  [out] y = MatMul (c, out_w)
}
"""


def _constants() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = {"q_w": (8, 8), "k_w": (8, 8), "out_w": (8, 4), "q_b": 8, "k_b": 8, "beta": 8}
    real = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return real | {
        "gamma": generator.uniform(0.1, 5, 8).astype(np.float32),
        "eighth": np.float32(0.125),
        "split": np.array([0, 0, 2, 4]),
        "whole": np.array([0, 0, 8]),
        "from_0": np.array([0]),
        "to_5": np.array([5]),
        "axis_1": np.array([1]),
    }


@pytest.fixture
def block(build) -> onnx.ModelProto:
    return build(BLOCK % "", **_arrays())


def _run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    generator = np.random.default_rng(1)
    x, words = (generator.normal(size=(3, n, 8)).astype(np.float32) for n in (5, 2))
    return open_model(model, threads=1).run({"x": x, "words": words})["y"]


def _names(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node]


def test_norms_become_part_of_their_products(block):
    folded = fold_norms(block)
    np.testing.assert_allclose(_run(folded), _run(block), rtol=1e-4, atol=1e-5)
    (norm,) = [node for node in folded.graph.node if node.name == "norm"]
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in folded.graph.initializer}
    assert len(norm.input) == 2
    np.testing.assert_array_equal(constants[norm.input[1]], np.ones(8))
    assert _names(folded) == _names(block)


def test_a_norm_that_others_read_stays(build):
    text = BLOCK.replace("(c, out_w)", "(c, out_w)\n  [other] r = Relu (n)") % ", float[] r"
    model = build(text.replace("float[] r", "float[phrases,5,8] r"), **_arrays())
    assert fold_norms(model).graph.node[0].input[2] == "beta"


def test_a_norm_before_a_product_without_bias_stays(build):
    text = (BLOCK % "").replace("MatMul (c, out_w)", "MatMul (n, out_w)")
    assert fold_norms(build(text, **_arrays())).graph.node[0].input[2] == "beta"


def test_scales_become_part_of_all_products_behind(block):
    folded = fold_scales(block)
    np.testing.assert_array_equal(_run(folded), _run(block))
    assert _names(folded) == [name for name in _names(block) if name != "scaled"]


def test_shared_constants_are_folded_for_one_reader_alone(block):
    """`k_w` makes queries of words, which are scaled, and keys, which are not."""
    folded = fold_scales(block)
    matrices = {node.name: node.input[1] for node in folded.graph.node if node.op_type == "MatMul"}
    assert matrices["k"] == "k_w"
    assert matrices["qw"] == "k_w_folded"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Concat <axis=1> (qi, qw)", "Concat <axis=1> (qi, words)"),
        ("Mul (qt, eighth)", "Mul (qt, qt)"),
        ("Mul (qt, eighth)", "Mul (qt, gamma4)"),
    ],
)
def test_other_scales_stay(build, old, new):
    model = build((BLOCK % "").replace(old, new), **_arrays(), gamma4=np.ones(4, np.float32))
    assert "scaled" in _names(fold_scales(model))


def test_a_scaled_tensor_that_is_returned_stays(build):
    text = BLOCK.replace("float[phrases,5,4] y%s", "float[phrases,5,4] y, float[phrases,5,8] qi")
    model = build(text, **_arrays())
    assert "scaled" in _names(fold_scales(model))


HEADS = """
<ir_version: 9, opset_import: ["" : 20]>
heads (float[phrases,5,8] x, float[phrases,2,8] words) => (float[phrases,4,2,5] y) {
  [heads] h = Reshape (x, split)
  [turn] t = Transpose <perm=[0,2,3,1]> (h)
  [rows] w = Reshape (words, split)
  [first] f = Transpose <perm=[0,2,1,3]> (w)
  [logits] l = MatMul (f, t)
  [columns] y = Transpose <perm=[0,2,3,1]> (l)
}
"""


def test_keys_are_turned_in_two_steps(build):
    model = build(
        HEADS.replace("float[phrases,4,2,5] y", "float[phrases,2,5,2] y"),
        split=np.array([0, 0, 2, 4]),
    )
    turned = turn_keys(model)
    np.testing.assert_array_equal(_run(turned), _run(model))
    perms = {
        node.name: list(node.attribute[0].ints) for node in turned.graph.node if "perm" in str(node)
    }
    assert perms == {
        "t_heads": [0, 2, 1, 3],
        "turn": [0, 1, 3, 2],
        "first": [0, 2, 1, 3],
        "columns": [0, 2, 3, 1],
    }


MASKS = """
<ir_version: 9, opset_import: ["" : 20]>
masks (float[phrases,1,4] row, float[phrases,4,2,3] features) => (float[phrases,rows,6] y) {
  [flat] cells = Reshape (features, extents)
  [product] y = MatMul (row, cells)
}
"""


def test_a_row_of_weights_becomes_a_sum_over_channels(build):
    model = build(MASKS, extents=np.array([0, 4, 6]))
    weighed = weigh_maps(model)
    onnx.checker.check_model(weighed, full_check=True)
    generator = np.random.default_rng(1)
    feed = {
        "row": generator.normal(size=(3, 1, 4)).astype(np.float32),
        "features": generator.normal(size=(3, 4, 2, 3)).astype(np.float32),
    }
    found, expected = (open_model(each, threads=1).run(feed)["y"] for each in (weighed, model))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert "MatMul" not in {node.op_type for node in weighed.graph.node}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("float[phrases,1,4] row", "float[phrases,3,4] row"),
        ("float[phrases,4,2,3] features", "float[phrases,4,rows,3] features"),
        ("float[phrases,4,2,3] features", "float[phrases,2,4,3] features"),
    ],
)
def test_other_products_with_maps_stay(build, old, new):
    model = build(MASKS.replace(old, new), extents=np.array([0, 4, 6]))
    assert _names(weigh_maps(model)) == ["flat", "product"]


def _arrays() -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in _constants().items()}
