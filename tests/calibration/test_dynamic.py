"""Dynamic INT8 graphs compute nearly the same, on fused integer kernels."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from saymask.calibration.dynamic import quantize_dynamic
from saymask.calibration.plan import plan_nodes
from saymask.calibration.session import executed_ops


def test_products(tokens, sentences, cosine):
    quantized = quantize_dynamic(tokens, plan_nodes(tokens))
    onnx.checker.check_model(quantized, full_check=True)
    assert cosine(quantized, tokens, sentences) > 0.999
    ops = [node.op_type for node in quantized.graph.node]
    assert ops.count("DynamicQuantizeLinear") == 2, "three products read one tensor"
    assert list(quantized.graph.input) == list(tokens.graph.input)
    assert list(quantized.graph.output) == list(tokens.graph.output)


def test_products_run_fused(tokens):
    ops = executed_ops(quantize_dynamic(tokens, plan_nodes(tokens)))
    assert ops["MatMulIntegerToFloat"] == 3, "they share one rounded tensor"
    assert ops["DynamicQuantizeLinear"] == 1
    assert ops["DynamicQuantizeMatMul"] == 1
    assert ops["MatMulInteger"] == ops["Cast"] == 0
    assert ops["Add"] <= 1, "biases belong to the products"


def test_a_shared_matrix_is_quantized_once(tokens):
    quantized = quantize_dynamic(tokens, plan_nodes(tokens))
    arrays = {each.name: numpy_helper.to_array(each) for each in quantized.graph.initializer}
    matrices = [name for name, array in arrays.items() if array.dtype == np.int8]
    assert sorted(matrices) == ["k_w_int8", "q_w_int8", "v_w_int8"]
    assert arrays["v_w_scale"].shape == (32,)
    assert not {"q_w", "k_w", "v_w"} & set(arrays)


def test_the_plan_is_followed(tokens):
    plan = plan_nodes(tokens, keep={"q": "not this one"})
    quantized = quantize_dynamic(tokens, plan)
    kept = {node.name for node in quantized.graph.node if node.op_type == "MatMul"}
    assert kept == {"q", "logits", "mix"}


def test_convolutions_stay(convolutions):
    quantized = quantize_dynamic(convolutions, plan_nodes(convolutions))
    assert list(quantized.graph.node) == list(convolutions.graph.node)
