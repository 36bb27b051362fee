"""Passes change nodes, not numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration.passes import part_products, replace_resizes, split_gemms
from saymask.calibration.session import open_model

GEMM = """
<ir_version: 9, opset_import: ["" : 20]>
head (float[5,8] x) => (float[5,4] y) { [gemm] y = Gemm <%s> (x, w%s) }
"""
RESIZE = """
<ir_version: 9, opset_import: ["" : 20]>
neck (float[%s,3,%d,%d] x) => (float[%s,3,%d,%d] y) {
  [outer] outer_size = Shape <end=2> (x)
  [joined] size = Concat <axis=0> (outer_size, size_hw)
  [resize] y = Resize <mode="%s", cubic_coeff_a=-0.75> (x, , , size)
}
"""
PARTED = """
<ir_version: 9, opset_import: ["" : 20]>
attention (float[2,5,8] x) => (float[2,5,%d] y) {
  [queries_keys_values] wide = MatMul (x, w)
  [bias] sum = Add (wide, %s)
  [split] q, k = Split <axis=%d%s> (sum%s)
  [turned] y = Concat <axis=2> (k, q)
}
"""


def _outputs(model: onnx.ModelProto, feed: np.ndarray) -> np.ndarray:
    return open_model(model, threads=1).run({"x": feed})["y"]


def _ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_turned", [True, False])
def test_gemm_becomes_a_product(build, has_bias, is_turned):
    weight, bias = _normal(8, 4), {"b": _normal(4)} if has_bias else {}
    text = GEMM % ("transB=1" if is_turned else "alpha=1.0", ", b" if has_bias else "")
    model = build(text, w=np.ascontiguousarray(weight.T) if is_turned else weight, **bias)
    split = split_gemms(model)
    onnx.checker.check_model(split, full_check=True)
    assert _ops(split) == ["MatMul", "Add"][: 1 + has_bias]
    assert split.graph.node[0].name == "gemm"
    feed = _normal(5, 8)
    np.testing.assert_allclose(_outputs(split, feed), _outputs(model, feed), atol=1e-5)


def test_other_gemms_stay(build):
    model = build(GEMM % ("alpha=0.5", ", b"), w=_normal(8, 4), b=_normal(4))
    assert _ops(split_gemms(model)) == ["Gemm"]


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("batch", ["1", "2", "phrases"])
@pytest.mark.parametrize(("source", "target"), [((4, 5), (15, 20)), ((9, 7), (4, 7))])
def test_interpolation_becomes_products(build, mode, batch, source, target):
    count = 2 if batch == "phrases" else int(batch)
    text = RESIZE % (batch, *source, batch, *target, mode)
    model = build(text, size_hw=np.array(target))
    replaced = replace_resizes(model)
    onnx.checker.check_model(replaced, full_check=True)
    assert _ops(replaced) == ["Transpose", "MatMul"] * 2
    feed = _normal(count, 3, *source)
    np.testing.assert_allclose(_outputs(replaced, feed), _outputs(model, feed), atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('mode="linear"', 'mode="nearest"'),
        ('mode="linear"', 'mode="linear", antialias=1'),
        ('mode="linear"', 'mode="linear", coordinate_transformation_mode="align_corners"'),
        ("=-0.75", "=-0.5"),
    ],
)
def test_other_interpolations_stay(build, old, new):
    text = (RESIZE % ("1", 4, 4, "1", 8, 8, "linear")).replace(old, new)
    assert _ops(replace_resizes(build(text, size_hw=np.array([8, 8]))))[-1] == "Resize"


def test_unknown_extents_stay(build):
    text = (RESIZE % ("1", 4, 4, "1", 8, 8, "linear")).replace("3,4,4", "3,h,4")
    assert _ops(replace_resizes(build(text, size_hw=np.array([8, 8]))))[-1] == "Resize"


@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize(("sizes", "width"), [("", 12), (", sizes", 11)])
def test_products_are_parted_as_what_reads_them(build, axis, sizes, width):
    text = PARTED % (width, "b", axis, "" if sizes else ", num_outputs=2", sizes)
    model = build(text, w=_normal(8, width), b=_normal(width), sizes=np.array([4, width - 4]))
    parted = part_products(model)
    onnx.checker.check_model(parted, full_check=True)
    assert _ops(parted) == ["MatMul", "Add", "MatMul", "Add", "Concat"]
    names = ["queries_keys_values_part0", "bias_part0"]
    assert [node.name for node in parted.graph.node][:2] == names
    feed = _normal(2, 5, 8)
    np.testing.assert_allclose(_outputs(parted, feed), _outputs(model, feed), atol=1e-6)


def test_products_without_a_bias_are_parted(build):
    text = (PARTED % (12, "b", -1, ", num_outputs=2", "")).replace("(sum)", "(wide)")
    model = build(text.replace("  [bias] sum = Add (wide, b)\n", ""), w=_normal(8, 12))
    parted = part_products(model)
    assert _ops(parted) == ["MatMul", "MatMul", "Concat"]
    feed = _normal(2, 5, 8)
    np.testing.assert_allclose(_outputs(parted, feed), _outputs(model, feed), atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"axis=-1": "axis=0", "Concat <axis=2>": "Concat <axis=0>"},
        {
            "(k, q)": "(k, q, q_too)",
            "12] y": "18] y",
            "  [turned]": "  [more] q_too = Relu (q)\n  [turned]",
        },
        {"(k, q)": "(k, positive)", "  [turned]": "  [more] positive = Relu (q)\n  [turned]"},
        {"(k, q)": "(k, q, sum)", "12] y": "24] y"},
        {"(k, q)": "(k, q, wide)", "12] y": "24] y"},
        {"(wide, b)": "(wide, one)"},
        {"(wide, b)": "(wide, wide)"},
        {
            "  [split]": "  [sized] sizes = Identity (sixes)\n  [split]",
            ", num_outputs=2": "",
            "(sum)": "(sum, sizes)",
        },
    ],
)
def test_other_products_stay_whole(build, changes):
    text = PARTED % (12, "b", -1, ", num_outputs=2", "")
    for old, new in changes.items():
        text = text.replace(old, new)
    constants = {"one": _normal(1), "sixes": np.array([6, 6])}
    model = build(text, w=_normal(8, 12), b=_normal(12), **constants)
    assert "Split" in _ops(part_products(model))
