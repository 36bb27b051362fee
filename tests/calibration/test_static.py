"""Static INT8 graphs compute nearly the same, on integer kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from saymask.calibration.passes import split_gemms
from saymask.calibration.plan import NodePlan, plan_nodes
from saymask.calibration.ranges import observe
from saymask.calibration.session import executed_ops
from saymask.calibration.static import quantize_static, quantized_tensors


def _quantize(model, feeds, plan=None) -> onnx.ModelProto:
    plan = plan or plan_nodes(model)
    histograms = observe(model, feeds, quantized_tensors(model, plan))
    quantized = quantize_static(model, plan, {k: v.range(100) for k, v in histograms.items()})
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _constants(model) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_what_is_rounded(convolutions, tokens):
    assert quantized_tensors(convolutions, plan_nodes(convolutions)) == ("b", "d", "e", "f", "g")
    assert quantized_tensors(tokens, plan_nodes(tokens)) == ("n", "m")
    found = quantized_tensors(convolutions, plan_nodes(convolutions), sums_only=True)
    assert found == ("b", "d", "e", "f")


def test_convolutions(convolutions, images, cosine):
    quantized = _quantize(convolutions, images)
    assert cosine(quantized, convolutions, images) > 0.999
    assert list(quantized.graph.input) == list(convolutions.graph.input)
    assert list(quantized.graph.output) == list(convolutions.graph.output)


def test_weights_are_integers(convolutions, images):
    constants = _constants(_quantize(convolutions, images))
    assert {name for name, array in constants.items() if array.dtype == np.int8} == {
        "wide_w_int8",
        "narrow_w_int8",
        "down_w_int8",
    }
    assert {name for name, array in constants.items() if array.dtype == np.int32} == {
        "wide_b_int32",
        "narrow_b_int32",
    }
    assert not {"wide_w", "narrow_w", "down_w"} & set(constants)
    assert constants["wide_w_scale"].shape == (64,)
    assert constants["stem_w"].dtype == np.float32


def test_convolutions_run_as_integers(convolutions, images):
    ops = executed_ops(_quantize(convolutions, images))
    assert ops["QLinearConv"] == 3
    assert ops["Conv"] == 3
    assert ops["QLinearAdd"] == 1
    assert ops["Relu"] == 0, "rounding to uint8 above zero is a ReLU"


@pytest.mark.parametrize("opset", [18, 21])
def test_other_opsets(build, opset, cosine):
    generator = np.random.default_rng(0)
    model = build(
        f"""
        <ir_version: 10, opset_import: ["" : {opset}]>
        net (float[1,8,8,8] x) => (float[1,8,8,8] y) {{
          [first] a = Conv (x, w)
          [act] b = HardSwish (a)
          [second] c = Conv (b, w)
          [third] y = Conv (c, w)
        }}
        """,
        w=generator.normal(size=(8, 8, 1, 1), scale=0.5).astype(np.float32),
    )
    feeds = [{"x": generator.normal(size=(1, 8, 8, 8)).astype(np.float32)}]
    quantized = _quantize(model, feeds)
    assert cosine(quantized, model, feeds) > 0.999
    assert executed_ops(quantized)["QLinearConv"] == 1
    assert quantized.opset_import[0].version == opset


def test_products(tokens, sentences, cosine):
    quantized = _quantize(tokens, sentences)
    assert cosine(quantized, tokens, sentences) > 0.999
    ops = executed_ops(quantized)
    assert ops["MatMulIntegerToFloat"] == 4
    assert ops["MatMul"] + ops["FusedMatMul"] == 2
    assert ops["Gemm"] == 0
    assert ops["QuantizeLinear"] == 2, "three products read one rounded tensor"


def test_a_shared_matrix_is_quantized_once(tokens, sentences):
    constants = _constants(_quantize(tokens, sentences))
    matrices = [name for name, array in constants.items() if array.dtype == np.int8]
    assert sorted(matrices) == ["k_w_int8", "q_w_int8", "v_w_int8"]


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
    quantized = _quantize(split_gemms(model), feeds)
    assert cosine(quantized, model, feeds) > 0.999
    assert executed_ops(quantized)["MatMulIntegerToFloat"] == 1


def test_a_plan_may_quantize_the_edges_too(convolutions, images, cosine):
    plan = {name: NodePlan(precision="int8", reason="") for name in plan_nodes(convolutions)}
    quantized = _quantize(convolutions, images, plan)
    assert cosine(quantized, convolutions, images) > 0.995
    assert executed_ops(quantized)["QLinearConv"] == 6


def test_a_plan_without_integers_changes_nothing(convolutions):
    plan = plan_nodes(convolutions, keep={"Conv": "not now"})
    quantized = quantize_static(convolutions, plan, {})
    assert list(quantized.graph.node) == list(convolutions.graph.node)
