"""Passes change nodes, not numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration.passes import replace_resizes, split_gemms
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
