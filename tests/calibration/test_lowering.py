"""Static and dynamic INT8 live in one graph."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from saymask.calibration import scales, session
from saymask.calibration.attention import attention_tensors
from saymask.calibration.graph import Graph
from saymask.calibration.lowering import lower_cpu, lower_openvino
from saymask.calibration.plan import NodePlan, name_int8, plan_nodes
from saymask.calibration.ranges import observe
from saymask.calibration.static import quantized_tensors


@pytest.fixture(scope="module")
def ranges(tokens, sentences):
    tensors = quantized_tensors(tokens, plan_nodes(tokens))
    return {
        name: histogram.range(100)
        for name, histogram in observe(tokens, sentences, tensors).items()
    }


@pytest.mark.parametrize(
    ("dynamic", "static_products", "dynamic_products"),
    [((), 4, 0), (("k", "out"), 2, 2), (("q", "k", "v", "out"), 0, 4)],
)
def test_each_node_as_its_plan_says(
    tokens, sentences, ranges, cosine, dynamic, static_products, dynamic_products
):
    static = name_int8(plan_nodes(tokens), "int8-static")
    other = name_int8(plan_nodes(tokens), "int8-dynamic")
    plan = static | {name: other[name] for name in dynamic}
    lowered = lower_cpu(tokens, plan, ranges)
    operators = Counter(node.op_type for node in lowered.graph.node)
    assert operators["MatMulInteger"] == dynamic_products
    assert operators["MatMul"] - 2 == static_products  # Two have no constant weights.
    executed = session.executed_ops(lowered)
    assert executed["MatMulIntegerToFloat"] + executed["DynamicQuantizeMatMul"] == 4
    assert 0.999 < cosine(lowered, tokens, sentences) < 1


def test_fp32_is_the_graph_as_it_was(tokens):
    plan = plan_nodes(tokens, keep={"MatMul": "none of them"})
    assert lower_cpu(tokens, plan, {}) is tokens


def test_openvino_rounds_attention_with_the_nodes_that_make_it(tokens, sentences, cosine):
    plan = name_int8(plan_nodes(tokens), "int8-static")
    wanted = dict.fromkeys(
        (
            *quantized_tensors(tokens, plan_nodes(tokens)),
            *attention_tensors(tokens, plan_nodes(tokens)),
        )
    )
    found = observe(tokens, sentences, tuple(wanted))
    ranges = {name: histogram.range(100) for name, histogram in found.items()}
    lifted = plan | {"q": NodePlan(precision="fp32", reason="lifted")}
    for each, rounded in ((plan, ["m", "n", "k", "q"]), (lifted, ["m", "n"])):
        lowered = lower_openvino(tokens, each, ranges)
        pairs = [node.input[0] for node in lowered.graph.node if node.op_type == "QuantizeLinear"]
        assert sorted(name.removesuffix("_real") for name in pairs) == sorted(rounded)
        assert 0.999 < cosine(lowered, tokens, sentences) < 1


@pytest.mark.parametrize("lower", [lower_cpu, lower_openvino])
@pytest.mark.parametrize(("wanted", "bits"), [(7, 7), (8, 8), (None, 7)])
def test_weights_have_the_bits_that_the_graph_notes(
    tokens, sentences, monkeypatch, lower, wanted, bits
):
    monkeypatch.setattr(scales, "sums_overflow", lambda: True)
    plan = name_int8(plan_nodes(tokens), "int8-static")
    names = (
        *quantized_tensors(tokens, plan_nodes(tokens)),
        *attention_tensors(tokens, plan_nodes(tokens)),
    )
    found = observe(tokens, sentences, tuple(dict.fromkeys(names)))
    ranges = {name: histogram.range(100) for name, histogram in found.items()}
    lowered = lower(tokens, plan, ranges, weight_bits=wanted)
    assert {entry.key: entry.value for entry in lowered.metadata_props} == {
        "weight_bits": str(bits)
    }
    graph = Graph(lowered)
    assert list(graph.model().metadata_props) == list(lowered.metadata_props)
    weights = [
        graph.array(name)
        for name, tensor in graph.constants.items()
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert {int(np.abs(weight).max()) for weight in weights} == {2 ** (bits - 1) - 1}
