"""What a graph rounds is read from the graph, and FP8 runs without FP8 arithmetic."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from saymask.calibration import qdq
from saymask.calibration.plan import plan_nodes
from saymask.calibration.qdq import pairs, rounded_nodes, runnable
from saymask.calibration.quantize import candidates
from saymask.calibration.ranges import observe
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors
from saymask.runtime import machine


@pytest.fixture
def lower():
    """Writes Q/DQ as TensorRT takes them."""

    def lower(model: onnx.ModelProto, feeds: list, **wishes) -> onnx.ModelProto:
        plan = plan_nodes(model)
        names = symmetric_tensors(model, plan, **wishes)
        ranges = {name: each.range(100) for name, each in observe(model, feeds, names).items()}
        return lower_symmetric(model, plan, ranges, **wishes)

    return lower


def test_int8_is_counted_and_runs_as_it_is(convolutions, images, lower, monkeypatch):
    monkeypatch.setattr(qdq, "sums_overflow", lambda: False)
    lowered = lower(convolutions, images, element="int8")
    assert rounded_nodes(lowered) == {"wide", "narrow", "down"}
    assert pairs(lowered) == 3
    assert runnable(lowered) is lowered
    assert rounded_nodes(convolutions) == frozenset()


@pytest.mark.parametrize("attention", [False, True])
def test_int8_for_tensorrt_runs_in_floats_where_sums_overflow(
    tokens, sentences, lower, cosine, monkeypatch, attention
):
    lowered = lower(tokens, sentences, element="int8", attention=attention)
    monkeypatch.setattr(qdq, "sums_overflow", lambda: True)
    simulated = runnable(lowered)
    assert pairs(simulated) == pairs(lowered)
    assert "DequantizeLinear" not in {node.op_type for node in simulated.graph.node}
    assert 0.999 < cosine(simulated, tokens, sentences) < 1
    monkeypatch.setattr(qdq, "sums_overflow", lambda: False)
    if not machine.sums_overflow():
        assert cosine(simulated, lowered, sentences) > 0.99999


def test_int8_for_a_cpu_runs_as_it_is(convolutions, images, monkeypatch):
    monkeypatch.setattr(qdq, "sums_overflow", lambda: True)
    for candidate in candidates(convolutions, images):
        assert runnable(candidate.model) is candidate.model


def test_products_of_attention_are_weighted_nodes_too(tokens, sentences, lower):
    lowered = lower(tokens, sentences, element="fp8", attention=True)
    assert rounded_nodes(lowered) == {"q", "k", "v", "logits", "mix", "out"}


@pytest.mark.parametrize("attention", [False, True])
def test_fp8_runs(tokens, sentences, lower, cosine, attention):
    simulated = runnable(lower(tokens, sentences, element="fp8", attention=attention))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in simulated.graph.node}
    assert list(simulated.graph.output) == list(tokens.graph.output)
    assert 0.996 < cosine(simulated, tokens, sentences) < 0.9999


@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 1, 1, 1)), (1, (1, 6, 1, 1)), (None, ())])
def test_fp8_weights_have_scales_along_any_axis(build, axis, shape):
    generator = np.random.default_rng(0)
    small = generator.normal(size=(4, 6, 1, 1)).astype(np.float32)
    scale = generator.uniform(0.5, 2, shape).astype(np.float32)
    model = build(
        f"""
        <ir_version: 9, opset_import: ["" : 20]>
        net (float[1,6,2,2] x) => (float[1,4,2,2] y) {{
          [stored] w = DequantizeLinear {"" if axis is None else f"<axis={axis}>"} (small, scale)
          [mix] y = Conv (x, w)
        }}
        """,
        scale=scale.reshape(() if axis is None else -1),
    )
    numbers = small.astype(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN))
    model.graph.initializer.append(numpy_helper.from_array(numbers, "small"))
    [weight] = runnable(model).graph.initializer
    expected = numbers.astype(np.float32) * scale
    np.testing.assert_array_equal(numpy_helper.to_array(weight), expected)
