"""Outliers behind a LayerNorm stop costing the other channels their steps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from saymask.calibration.layerwise import compare_layers
from saymask.calibration.plan import plan_nodes
from saymask.calibration.ranges import observe
from saymask.calibration.smoothing import smooth, smoothed_tensors
from saymask.calibration.static import quantize_static, quantized_tensors


@pytest.fixture
def uneven(tokens) -> onnx.ModelProto:
    """`tokens` with outliers of 64 in the LayerNorm that its matrices undo."""
    model = onnx.ModelProto()
    model.CopyFrom(tokens)
    outliers = np.where(np.arange(32) % 8 == 3, 64, 1).astype(np.float32)
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    # The output projection shares the values' matrix, so that one is given to the values alone.
    arrays |= {"values_w": arrays["v_w"] / outliers[:, None]}
    for name in ("gamma", "beta"):
        arrays[name] = arrays[name] * outliers
    for name in ("q_w", "k_w"):
        arrays[name] = arrays[name] / outliers[:, None]
    next(node for node in model.graph.node if node.name == "v").input[1] = "values_w"
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    return model


def _smoothed(model: onnx.ModelProto, feeds: list) -> onnx.ModelProto:
    axes = smoothed_tensors(model)
    found = observe(model, feeds, axes, channel_axes=axes)
    return smooth(model, {name: each.absmax for name, each in found.items()})


def _static(model: onnx.ModelProto, feeds: list) -> onnx.ModelProto:
    plan = plan_nodes(model)
    histograms = observe(model, feeds, quantized_tensors(model, plan))
    return quantize_static(
        model, plan, {name: each.range(100) for name, each in histograms.items()}
    )


def test_only_the_norm_is_smoothed(tokens):
    assert smoothed_tensors(tokens) == {"n": 2}


def test_smoothing_restores_what_outliers_cost(tokens, uneven, sentences, cosine):
    assert cosine(uneven, tokens, sentences) > 1 - 1e-6
    plain = 1 - cosine(_static(tokens, sentences), tokens, sentences)
    broken = 1 - cosine(_static(uneven, sentences), tokens, sentences)
    restored = 1 - cosine(_static(_smoothed(uneven, sentences), sentences), tokens, sentences)
    assert broken > 20 * plain
    assert restored < 2 * plain


def test_a_shared_matrix_is_scaled_for_the_norms_reader_alone(tokens, sentences):
    smoothed = smooth(tokens, {"n": np.where(np.arange(32) == 3, 100, 1)})
    reads = {node.name: node.input[-1] for node in smoothed.graph.node}
    assert reads["out"] == "v_w"
    assert reads["v"] != "v_w"


def test_what_was_smoothed_is_not_taken_for_what_it_was(tokens, uneven, sentences):
    smoothed = _smoothed(uneven, sentences)
    made = {name for node in smoothed.graph.node for name in node.output}
    assert "n_even" in made
    assert "n" not in made
    report = compare_layers(uneven, smoothed, sentences)
    assert [row.node for row in report.rows] == [
        node.name for node in tokens.graph.node if node.name != "norm"
    ]
    assert all(row.max_abs == 0 for row in report.rows)
