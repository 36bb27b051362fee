"""The first layer that departs is named, and the first that makes what is no number."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from saymask.calibration.layerwise import Agreement, compare_layers
from saymask.calibration.plan import plan_nodes
from saymask.calibration.ranges import observe
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors
from saymask.runtime.errors import UsageError


def _with(model: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    """Return a copy with another constant."""
    model = copy.deepcopy(model)
    [tensor] = [each for each in model.graph.initializer if each.name == name]
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def _constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    [tensor] = [each for each in model.graph.initializer if each.name == name]
    return numpy_helper.to_array(tensor)


def test_a_graph_agrees_with_itself(convolutions, images):
    report = compare_layers(convolutions, convolutions, images)
    assert [row.node for row in report.rows] == [node.name for node in convolutions.graph.node]
    assert all(row.cosine == pytest.approx(1) for row in report.rows)
    assert all(row.max_abs == 0 for row in report.rows)
    assert report.first_departure is None
    assert report.first_fault is None
    assert report.lines()[-1] == "all 11 layers have a cosine of at least 0.99"


def test_the_first_layer_that_departs(convolutions, images):
    other = _with(convolutions, "down_w", -_constant(convolutions, "down_w"))
    report = compare_layers(convolutions, other, images)
    departure = report.first_departure
    assert departure is not None
    assert (departure.node, departure.op_type, departure.tensor) == ("down", "Conv", "g")
    assert departure.cosine == pytest.approx(-1)
    assert all(row.cosine == pytest.approx(1) for row in report.rows[:6])
    assert report.lines()[-1] == (
        "the first layer below cosine 0.99 is down (Conv), with -1.000000"
    )


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_the_first_layer_that_makes_no_number(tokens, sentences, value, kind):
    other = _with(tokens, "k_b", np.full(32, value))
    report = compare_layers(tokens, other, sentences)
    fault = report.first_fault
    assert fault is report.first_departure
    assert fault is not None
    assert (fault.node, fault.fault) == ("k_bias", kind)
    assert np.isnan(fault.cosine)
    assert report.lines()[-1] == f"the first layer to make {kind} is k_bias"


@pytest.mark.parametrize("element", ["int8", "fp8"])
def test_what_is_rounded_departs_by_layers(tokens, sentences, element):
    plan = plan_nodes(tokens)
    names = symmetric_tensors(tokens, plan, element=element)
    ranges = {name: each.range(100) for name, each in observe(tokens, sentences, names).items()}
    lowered = lower_symmetric(tokens, plan, ranges, element=element)
    report = compare_layers(tokens, lowered, sentences, floor=0.99999999)
    assert report.rows[0].node == "norm"
    assert report.rows[0].max_abs == 0
    assert report.first_departure is report.rows[1], "q reads a rounded tensor"
    assert report.rows[-1].cosine > 0.99


def test_little_memory_changes_nothing(convolutions, images):
    other = _with(convolutions, "down_w", _constant(convolutions, "down_w") * 1.5)
    whole = compare_layers(convolutions, other, images)
    alone = compare_layers(convolutions, other, images, memory_mib=0)
    assert [row.tensor for row in alone.rows] == [row.tensor for row in whole.rows]
    assert [row.cosine for row in alone.rows] == pytest.approx([row.cosine for row in whole.rows])


def test_masked_places_are_left_out():
    agreement = Agreement()
    agreement.add(np.float32([1, 2, -np.inf]), np.float32([1, 2, -np.inf]))
    agreement.add(np.float32([0, 3]), np.float32([-np.inf, 3]))
    assert agreement.cosine == pytest.approx(1)
    assert agreement.fault == ""


def test_calls_without_sense(convolutions, images):
    with pytest.raises(UsageError, match="compared on real inputs; got none"):
        compare_layers(convolutions, convolutions, [])
    with pytest.raises(UsageError, match="these share none"):
        compare_layers(convolutions, _renamed(convolutions), images)


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    model = copy.deepcopy(model)
    inputs = {value.name for value in model.graph.input}
    kept = inputs | {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        node.output[:] = [f"other_{name}" for name in node.output]
        node.input[:] = [name if name in kept else f"other_{name}" for name in node.input]
    model.graph.output[0].name = "other_embedding"
    del model.graph.value_info[:]
    return model
