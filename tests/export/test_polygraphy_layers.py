"""Polygraphy says of a graph's layers what ours does."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from saymask.calibration.layerwise import compare_layers
from saymask.calibration.plan import plan_nodes
from saymask.calibration.ranges import observe
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors
from saymask.export.polygraphy_layers import compare_with_polygraphy
from saymask.runtime.errors import UsageError

pytest.importorskip("polygraphy", reason="polygraphy is not installed")


@pytest.fixture
def tokens() -> onnx.ModelProto:
    """Two products with a bias between them, and logits of which some are masked."""
    model = parser.parse_model(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        words (float[6,16] tokens) => (float[6,6] logits) {
          [up] a = MatMul (tokens, up_w)
          [k_bias] b = Add (a, k_b)
          [act] c = Relu (b)
          [down] d = MatMul (c, down_w)
          [turned] e = Transpose <perm=[1,0]> (d)
          [scores] f = MatMul (d, e)
          [masked] g = Add (f, mask)
          [logits] logits = Max (g, least)
        }
        """
    )
    generator = np.random.default_rng(0)
    mask = np.where(np.tri(6, dtype=bool), 0, -np.inf)
    constants = {
        "up_w": generator.normal(size=(16, 32)), "k_b": generator.normal(size=32),
        "down_w": generator.normal(size=(32, 16)), "mask": mask, "least": np.full(1, -9.0),
    }  # fmt: skip
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()
    )
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def sentences() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    return [{"tokens": generator.normal(size=(6, 16)).astype(np.float32)} for _ in range(2)]


@pytest.mark.parametrize("element", ["int8", "fp8"])
def test_both_find_the_same_layers_as_far_apart(tokens, sentences, element):
    plan = plan_nodes(tokens)
    tensors = symmetric_tensors(tokens, plan, element=element)
    ranges = {name: each.range(100) for name, each in observe(tokens, sentences, tensors).items()}
    quantized = lower_symmetric(tokens, plan, ranges, element=element)
    ours = compare_layers(tokens, quantized, sentences[:1])
    theirs = compare_with_polygraphy(tokens, quantized, sentences[0])
    # What is masked has no cosine there; ours leaves those places out, Polygraphy's the layer.
    ours_by_node = {row.node: row for row in ours.rows if row.node != "masked"}
    assert [row.node for row in theirs.rows] == list(ours_by_node)
    for one, other in zip(ours_by_node.values(), theirs.rows, strict=True):
        assert other.cosine == pytest.approx(one.cosine, abs=1e-5)
        assert other.max_abs == pytest.approx(one.max_abs, rel=1e-4, abs=1e-6)
    assert min(row.cosine for row in theirs.rows) < 0.99999


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_what_is_no_number_is_told(tokens, sentences, value, kind):
    other = copy.deepcopy(tokens)
    [tensor] = [each for each in other.graph.initializer if each.name == "k_b"]
    tensor.CopyFrom(numpy_helper.from_array(np.full(32, value, np.float32), "k_b"))
    report = compare_with_polygraphy(tokens, other, sentences[0])
    fault = report.first_fault
    assert fault is not None
    assert (fault.fault, fault) == (kind, report.first_departure)
    assert fault.node == "k_bias"


def test_graphs_must_share_names(tokens, sentences):
    other = copy.deepcopy(tokens)
    for node in other.graph.node:
        node.output[:] = [f"other_{name}" for name in node.output]
    with pytest.raises(UsageError, match="these share none; quantize the FP32 graph"):
        compare_with_polygraphy(tokens, other, sentences[0])
