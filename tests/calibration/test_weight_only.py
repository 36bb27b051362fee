"""Weights become small numbers; everything else stays as it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from saymask.calibration.passes import split_gemms
from saymask.calibration.plan import plan_nodes
from saymask.calibration.weight_only import weight_only
from saymask.runtime.errors import UsageError


def _constants(model) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _product(build, rows: int) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    return build(
        f"""
        <ir_version: 9, opset_import: ["" : 20]>
        head (float[n,{rows}] x) => (float[n,24] y) {{ [product] y = MatMul (x, w) }}
        """,
        w=generator.normal(size=(rows, 24)).astype(np.float32),
    )


def _weight_bytes(model) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


@pytest.mark.parametrize(("bits", "least"), [(8, 0.9999), (4, 0.98)])
def test_products(tokens, sentences, cosine, bits, least):
    lowered = weight_only(tokens, plan_nodes(tokens), bits=bits)
    onnx.checker.check_model(lowered, full_check=True)
    assert cosine(lowered, tokens, sentences) > least
    ops = [node.op_type for node in lowered.graph.node]
    assert ops.count("DequantizeLinear") == 3, "two of four products share a matrix"
    assert "QuantizeLinear" not in ops
    assert list(lowered.graph.input) == list(tokens.graph.input)
    assert list(lowered.graph.output) == list(tokens.graph.output)


def test_int8_has_a_scale_for_each_column(build):
    constants = _constants(weight_only(model := _product(build, 40), plan_nodes(model), bits=8))
    assert constants["w_int8"].dtype == np.int8
    assert constants["w_scale"].shape == (24,)
    (weight,) = _constants(model).values()
    real = constants["w_int8"] * constants["w_scale"]
    assert (np.abs(real - weight) <= constants["w_scale"] / 2).all()
    assert (np.abs(constants["w_int8"]).max(0) == 127).all()


@pytest.mark.parametrize(
    ("rows", "block", "taken"), [(256, 128, 128), (192, 128, 64), (128, 128, 64), (48, 32, 16)]
)
def test_int4_has_a_scale_for_each_block(build, rows, block, taken):
    model = _product(build, rows)
    lowered = weight_only(model, plan_nodes(model), bits=4, block=block)
    onnx.checker.check_model(lowered, full_check=True)
    assert lowered.opset_import[0].version == 21
    constants = _constants(lowered)
    scale = constants["w_scale"]
    assert scale.shape == (rows // taken, 24)
    real = constants["w_int4"].astype(np.float32) * scale.repeat(taken, 0)
    (weight,) = _constants(model).values()
    assert (np.abs(real - weight) <= scale.repeat(taken, 0) / 2).all()
    assert _weight_bytes(lowered) == rows * 24 // 2 + scale.nbytes


@pytest.mark.parametrize("rows", [1, 16, 40])
def test_rows_without_blocks_stay(build, rows):
    model = _product(build, rows)
    lowered = weight_only(model, plan_nodes(model), bits=4)
    assert list(lowered.graph.node) == list(model.graph.node)


def test_the_plan_is_followed_and_convolutions_stay(tokens, convolutions):
    lowered = weight_only(tokens, plan_nodes(tokens, keep={"q": "not this one"}), bits=8)
    assert "q_w" in _constants(lowered)
    lowered = weight_only(convolutions, plan_nodes(convolutions), bits=8)
    assert list(lowered.graph.node) == list(convolutions.graph.node)


def test_gemm(build, cosine):
    generator = np.random.default_rng(0)
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        head (float[6,64] x) => (float[6,8] y) { [gemm] y = Gemm <transB=1> (x, w, b) }
        """,
        w=generator.normal(size=(8, 64)).astype(np.float32),
        b=generator.normal(size=8).astype(np.float32),
    )
    split = split_gemms(model)
    feeds = [{"x": generator.normal(size=(6, 64)).astype(np.float32)}]
    assert cosine(weight_only(split, plan_nodes(split), bits=4), model, feeds) > 0.98


def test_wishes_that_make_no_sense(tokens, build):
    for wish in ({"bits": 3}, {"bits": 4, "block": 8}):
        with pytest.raises(UsageError, match="8 or 4 bits and blocks of 16 or more; got [34] bits"):
            weight_only(tokens, {}, **wish)
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        net (float[1,8,4,4] x) => (float[1,8,4,4] y) {
          [norm] y = GroupNormalization <num_groups=2> (x, s, b)
        }
        """,
        s=np.ones(2, np.float32),
        b=np.zeros(2, np.float32),
    )
    with pytest.raises(UsageError, match="GroupNormalization reads other scales; .* 20 and norm;"):
        weight_only(model, {}, bits=4)
