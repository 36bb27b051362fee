"""Q/DQ stand where TensorRT fuses them, the numbers are nearly FP32's, and engines are built."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from saymask.calibration.passes import split_gemms
from saymask.calibration.plan import NodePlan, plan_nodes
from saymask.calibration.qdq import runnable
from saymask.calibration.ranges import Range, observe
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors
from saymask.runtime.errors import UnknownNameError, UsageError

RESIDUAL = """
<ir_version: 9, opset_import: ["" : 20]>
net (float[1,16,8,8] x) => (float[1,16,8,8] y) {
  [first] a = Conv <pads=[1,1,1,1]> (x, w, b)
  [first_act] b1 = Relu (a)
  [second] c = Conv <pads=[1,1,1,1]> (b1, w2, b)
  [beside] s = Conv (x, w1)
  [sum] d = Add (%s)
  [sum_act] e = Relu (d)
  [third] f = Conv <pads=[1,1,1,1]> (e, w, b)
  [last] y = %s
}
"""


@pytest.fixture
def residual(build):
    """Makes a residual block and what follows it."""

    def residual(summands: str, last: str = "Neg (f)") -> onnx.ModelProto:
        generator = np.random.default_rng(0)
        shapes = {"w": (16, 16, 3, 3), "w1": (16, 16, 1, 1), "w2": (16, 16, 3, 3), "b": (16,)}
        constants = {
            name: generator.normal(size=shape, scale=0.1).astype(np.float32)
            for name, shape in shapes.items()
        }
        return build(RESIDUAL % (summands, last), **constants)

    return residual


def _all(model) -> dict[str, NodePlan]:
    """A plan that quantizes every weighted node."""
    return {name: NodePlan(precision="int8", reason="") for name in plan_nodes(model)}


def _lower(model, feeds, plan=None, **wishes) -> onnx.ModelProto:
    plan, wishes = plan or plan_nodes(model), {"element": "int8", **wishes}
    histograms = observe(model, feeds, symmetric_tensors(model, plan, **wishes))
    ranges = {name: histogram.range(100) for name, histogram in histograms.items()}
    lowered = lower_symmetric(model, plan, ranges, **wishes)
    onnx.checker.check_model(lowered, full_check=True)
    assert list(lowered.graph.input) == list(model.graph.input)
    assert list(lowered.graph.output) == list(model.graph.output)
    return lowered


def _read(model) -> dict[str, list[str]]:
    """What each node of the source reads now."""
    ours = {"QuantizeLinear", "DequantizeLinear"}
    return {node.name: list(node.input) for node in model.graph.node if node.op_type not in ours}


def _constants(model) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _pairs(model) -> list[str]:
    return [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]


def test_a_residual_block(residual, cosine):
    model = residual("c, x")
    feeds = [{"x": np.random.default_rng(1).normal(size=(1, 16, 8, 8)).astype(np.float32)}]
    lowered = _lower(model, feeds, _all(model))
    assert _pairs(lowered) == ["x", "b1", "e"], "one for all readers, none before a ReLU"
    assert _read(lowered) == {
        "first": ["x_rounded", "w_rounded", "b"],
        "first_act": ["a"],
        "second": ["b1_rounded", "w2_rounded", "b"],
        "sum": ["c", "x_rounded"],
        "sum_act": ["d"],
        "third": ["e_rounded", "w_rounded", "b"],
        "last": ["f"],
    }
    assert cosine(lowered, model, feeds) > 0.999


def test_a_shortcut_on_the_left(residual):
    model = residual("x, c")
    assert symmetric_tensors(model, _all(model), element="int8") == ("x", "b1", "e")
    ranges = dict.fromkeys(("x", "b1", "e"), Range(low=-1, high=1))
    lowered = lower_symmetric(model, _all(model), ranges, element="int8")
    assert _read(lowered)["sum"] == ["x_rounded", "c"]


def test_a_shortcut_that_is_a_convolution_itself(residual):
    model = residual("s, c")
    assert symmetric_tensors(model, _all(model), element="int8") == ("x", "b1", "e", "s")


@pytest.mark.parametrize("last", ["Add (f, e)", "Neg (e)"])
def test_a_sum_that_is_also_read_as_it_is_has_no_rounded_shortcut(residual, last):
    model = residual("c, x", last)
    ranges = dict.fromkeys(
        symmetric_tensors(model, _all(model), element="int8"), Range(low=0, high=1)
    )
    read = _read(lower_symmetric(model, _all(model), ranges, element="int8"))
    assert read["sum"] == ["c", "x"]
    assert read["last"] in (["f", "e"], ["e"])


def test_a_branch_in_fp32_has_no_rounded_shortcut(residual):
    model = residual("c, x")
    plan = _all(model) | {"second": NodePlan(precision="fp32", reason="it hurt most")}
    assert symmetric_tensors(model, plan, element="int8") == ("x", "e")
    ranges = dict.fromkeys(("x", "e"), Range(low=0, high=1))
    assert _read(lower_symmetric(model, plan, ranges, element="int8"))["sum"] == ["c", "x"]


def test_depthwise_convolutions_follow_the_plan(convolutions, images):
    lowered = _lower(convolutions, images)
    assert _read(lowered)["depth"] == ["h", "depth_w", "depth_b"]
    assert _read(lowered)["down"] == ["f_rounded", "down_w_rounded"]
    lowered = _lower(convolutions, images, _all(convolutions))
    assert _read(lowered)["depth"] == ["h_rounded", "depth_w_rounded", "depth_b"]
    assert _constants(lowered)["depth_w_scale"].shape == (32,)


def test_queries_keys_and_values_share_one_pair(tokens, sentences):
    lowered = _lower(tokens, sentences)
    assert _pairs(lowered) == ["n", "m"]
    read = _read(lowered)
    assert {read[name][0] for name in "qkv"} == {"n_rounded"}
    assert read["q_bias"] == ["qm", "q_b"]
    assert read["logits"] == ["q", "kt"]
    assert read["mix"] == ["p", "v"]
    assert read["shortcut"] == ["tokens", "o"], "no convolution, no rounded shortcut"


def test_attention_is_quantized_on_request(tokens, sentences):
    names = symmetric_tensors(tokens, plan_nodes(tokens), element="int8", attention=True)
    assert names == ("n", "m", "q", "kt", "v")
    lowered = _lower(tokens, sentences, attention=True)
    read = _read(lowered)
    assert read["logits"] == ["q_rounded", "kt_rounded"]
    assert read["mix"] == ["p_rounded", "v_rounded"]
    assert read["weights"] == ["l"]
    assert _constants(lowered)["p_scale"] == pytest.approx(1 / 127, rel=1e-3)


@pytest.mark.parametrize(
    ("count", "element", "is_quantized"),
    [(512, "int8", True), (513, "int8", False), (513, "fp8", True)],
)
def test_long_attention_is_not_quantized_in_int8(build, count, element, is_quantized):
    model = build(
        f"""
        <ir_version: 9, opset_import: ["" : 20]>
        net (float[1,4,8] q, float[1,8,{count}] k, float[1,{count},8] v, float[1,1,{count}] bias)
        => (float[1,4,8] y) {{
          [logits] l = MatMul (q, k)
          [scale] s = Mul (l, half)
          [mask] a = Add (s, bias)
          [softmax] p = Softmax <axis=-1> (a)
          [mix] y = MatMul (p, v)
        }}
        """,
        half=np.float32(0.5),
    )
    names = symmetric_tensors(model, {}, element=element, attention=True)
    assert names == (("q", "k", "v") if is_quantized else ())


def test_a_softmax_without_two_products_is_no_attention(build):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        net (float[4,8] x) => (float[4,8] y) {
          [rows] a = MatMul (x, w)
          [softmax] p = Softmax <axis=-1> (a)
          [mix] y = MatMul (p, w)
        }
        """,
        w=np.eye(8, dtype=np.float32),
    )
    assert symmetric_tensors(model, {}, element="fp8", attention=True) == ()


def test_int8_scales(tokens, convolutions):
    ranges = dict.fromkeys(("n", "m"), Range(low=-2, high=1))
    constants = _constants(lower_symmetric(tokens, plan_nodes(tokens), ranges, element="int8"))
    assert constants["n_scale"] == pytest.approx(2 / 127, rel=1e-3)
    assert constants["zero_int8"] == 0
    assert constants["q_w_int8"].dtype == np.int8
    assert constants["q_w_scale"].shape == (32,)
    assert "q_w" not in constants
    plan = plan_nodes(convolutions)
    names = symmetric_tensors(convolutions, plan, element="int8")
    ranges = dict.fromkeys(names, Range(low=0, high=1))
    constants = _constants(lower_symmetric(convolutions, plan, ranges, element="int8"))
    assert constants["wide_w_scale"].shape == (64,)
    assert constants["wide_b"].dtype == np.float32


def test_fp8_scales(tokens):
    ranges = dict.fromkeys(("n", "m"), Range(low=-2, high=1))
    constants = _constants(lower_symmetric(tokens, plan_nodes(tokens), ranges, element="fp8"))
    assert constants["n_scale"] == pytest.approx(2 / 448, rel=1e-3)
    assert constants["q_w_scale"].shape == ()
    assert constants["q_w_float8_e4m3fn"].itemsize == 1


@pytest.mark.parametrize("attention", [False, True])
def test_int8_numbers(tokens, sentences, cosine, attention):
    lowered = _lower(tokens, sentences, attention=attention)
    assert cosine(lowered, tokens, sentences) > 0.999


def test_numbers_of_convolutions(convolutions, images, cosine):
    int8 = _lower(convolutions, images)
    assert cosine(int8, convolutions, images) > 0.999
    fp8 = _lower(convolutions, images, element="fp8")
    assert cosine(runnable(fp8), convolutions, images) > 0.998, "it has 4 digits"


def test_gemm(build, cosine):
    generator = np.random.default_rng(0)
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        head (float[6,16] x) => (float[6,8] y) { [gemm] y = Gemm <transB=1> (x, w, b) }
        """,
        w=generator.normal(size=(8, 16)).astype(np.float32),
        b=generator.normal(size=8).astype(np.float32),
    )
    feeds = [{"x": generator.normal(size=(6, 16)).astype(np.float32)}]
    for element in ("int8", "fp8"):
        lowered = _lower(split_gemms(model), feeds, element=element)
        assert _read(lowered)["gemm"] == ["x_rounded", "w_transposed_rounded"]
        assert cosine(runnable(lowered), model, feeds) > 0.999


def test_a_plan_without_integers_changes_nothing(convolutions):
    plan = plan_nodes(convolutions, keep={"Conv": "not now"})
    lowered = lower_symmetric(convolutions, plan, {}, element="int8")
    assert list(lowered.graph.node) == list(convolutions.graph.node)


def test_other_elements(tokens):
    with pytest.raises(UnknownNameError, match="element must be one of fp8, int8; got 'int4'"):
        symmetric_tensors(tokens, {}, element="int4")


def test_missing_ranges(tokens):
    with pytest.raises(
        UsageError, match="must have a range, see symmetric_tensors; there is none of m;"
    ):
        lower_symmetric(tokens, plan_nodes(tokens), {"n": Range(low=0, high=1)}, element="int8")
