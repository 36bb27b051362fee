"""Scaled channels leave no trace, and regions end where something sees the channels."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from saymask.calibration.channels import Channels, balance
from saymask.calibration.migration import migrate, migrated_tensors
from saymask.calibration.session import open_model
from saymask.calibration.signs import signed_tensors, turn_keys
from saymask.calibration.smoothing import smooth, smoothed_tensors

RESIDUAL = """
<ir_version: 9, opset_import: ["" : 20]>
encoder (float[1,3,8,8] image) => (float[1,4,8,8] embedding) {
  [stem] a = Conv <pads=[1,1,1,1]> (image, stem_w, stem_b)
  [wide] b = Conv (a, wide_w)
  [wide_act] c = Relu (b)
  [mixed] d = Conv <group=4> (c, mixed_w)
  [sum] e = Add (a, d)
  [columns_turn] f = Transpose <perm=[0,1,3,2]> (e)
  [columns] g = MatMul (ones, f)
  [turn] h = Transpose <perm=[0,1,3,2]> (g)
  [one] i = Unsqueeze (h, zero)
  [other] j = Unsqueeze (e, zero)
  [stack] k = Concat <axis=0> (i, j)
  [merge] l = ReduceSum <keepdims=0> (k, zero)
  [depth] m = Conv <pads=[1,1,1,1], group=8> (l, depth_w)
  [depth_act] n = Gelu <approximate="tanh"> (m)
  [again] o = Conv <group=8> (n, again_w)
  [last] embedding = Conv (o, last_w, last_b)
}
"""
WINDOWS = """
<ir_version: 9, opset_import: ["" : 20]>
block (float[1,3,4,8] tokens) => (float[1,4,4,8] states) {
  [norm] a = LayerNormalization <axis=-1> (tokens, gamma, beta)
  [pad] b = Pad (a, pads)
  [cut] c = Reshape (b, cut_shape)
  [turn] d = Transpose <perm=[0,1,3,2,4,5]> (c)
  [flat] e = Reshape (d, flat_shape)
  [lin1] f = MatMul (e, lin1_w)
  [lin1_bias] g = Add (lin1_b, f)
  [act] h = Relu (g)
  [lin2] i = MatMul (h, lin2_w)
  [whole] states = Reshape (i, whole_shape)
}
"""
ATTENTION = """
<ir_version: 9, opset_import: ["" : 20]>
block (float[2,5,8] image, float[2,3,8] words) => (float[2,2,3,8] states) {
  [q] qm = MatMul (words, q_w)
  [q_bias] q = Add (qm, q_b)
  [ka] kam = MatMul (image, k_w)
  [ka_bias] ka = Add (kam, k_b)
  [kb] kb = MatMul (words, v_w)
  [keys] k = Concat <axis=1> (ka, kb)
  [q_cut] qc = Reshape (q, q_shape)
  [q_turn] qt = Transpose <perm=[0,2,1,3]> (qc)
  [q_scale] qs = Mul (qt, half)
  [k_cut] kc = Reshape (k, k_shape)
  [k_turn] kt = Transpose <perm=[0,2,3,1]> (kc)
  [logits] l = MatMul (qs, kt)
  [hide] m = Add (l, hidden)
  [weights] states = Softmax <axis=-1> (m)
}
"""


@pytest.fixture(scope="module")
def graphs(build) -> dict[str, onnx.ModelProto]:
    """A network of each kind whose channels differ by up to 2 ** 6."""
    generator = np.random.default_rng(4)

    def spread(*shape: int) -> np.ndarray:
        uneven = 2 ** generator.uniform(-3, 3, (shape[0], *[1] * (len(shape) - 1)))
        return (generator.normal(size=shape) * uneven).astype(np.float32)

    return {
        "residual": build(
            RESIDUAL,
            stem_w=spread(8, 3, 3, 3), stem_b=spread(8), wide_w=spread(16, 8, 1, 1),
            mixed_w=spread(8, 4, 1, 1), depth_w=spread(8, 1, 3, 3), again_w=spread(8, 1, 1, 1),
            last_w=spread(4, 8, 1, 1), last_b=spread(4), ones=spread(8, 8), zero=np.array([0]),
        ),
        "windows": build(
            WINDOWS,
            gamma=spread(8), beta=spread(8), lin1_w=spread(8, 16), lin1_b=spread(16),
            lin2_w=spread(16, 8), pads=np.array([0, 0, 0, 0, 0, 1, 0, 0]),
            cut_shape=np.array([1, 2, 2, 2, 2, 8]), flat_shape=np.array([4, 2, 2, 8]),
            whole_shape=np.array([1, 4, 4, 8]),
        ),
        "attention": build(
            ATTENTION,
            q_w=spread(8, 8), q_b=spread(8), k_w=spread(8, 8), k_b=spread(8), v_w=spread(8, 8),
            q_shape=np.array([2, 3, 2, 4]), k_shape=np.array([2, 8, 2, 4]),
            half=np.array(0.5, np.float32), hidden=spread(8),
        ),
    }  # fmt: skip


def _feed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    extents = {
        value.name: [axis.dim_value or 2 for axis in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    return {name: generator.normal(size=shape) for name, shape in extents.items()}


def _doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    doubled = onnx.ModelProto()
    doubled.CopyFrom(model)
    for number, tensor in enumerate(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            doubled.graph.initializer[number].CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*doubled.graph.input, *doubled.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del doubled.graph.value_info[:]
    return doubled


def _transformed(name: str, model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Apply a transform with made-up statistics; exactness must not hang on good ones."""
    axes, transform = {
        "smooth": (smoothed_tensors, smooth),
        "migrate": (
            partial(migrated_tensors, quantized=("depth", "again")),
            partial(migrate, quantized=("depth", "again")),
        ),
        "turn_keys": (signed_tensors, turn_keys),
    }[name]
    generator = np.random.default_rng(6)
    dims = onnx.shape_inference.infer_shapes(model).graph
    extents = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*dims.value_info, *dims.input)
    }
    needed = axes(model)
    made_up = {
        tensor: generator.normal(size=extents[tensor][axis]) for tensor, axis in needed.items()
    }
    if name != "turn_keys":
        made_up = {tensor: 2 ** (3 * values) for tensor, values in made_up.items()}
    return transform(model, made_up), len(needed)


CASES = [
    ("smooth", "windows", 1),
    ("migrate", "windows", 1),
    ("migrate", "residual", 5),
    ("turn_keys", "attention", 1),
]


@pytest.mark.parametrize(("transform", "graph", "count"), CASES)
def test_transforms_are_exact_in_double(graphs, transform, graph, count):
    model = graphs[graph]
    changed, needed = _transformed(transform, model)
    assert needed == count
    assert changed.SerializeToString() != model.SerializeToString()
    feed = _feed(model)
    (expected,) = ReferenceEvaluator(_doubled(model)).run(None, feed)
    (found,) = ReferenceEvaluator(_doubled(changed)).run(None, feed)
    assert expected.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(("transform", "graph", "count"), CASES)
def test_transforms_are_exact_in_the_engine(graphs, transform, graph, count):
    model = graphs[graph]
    changed, _ = _transformed(transform, model)
    onnx.checker.check_model(changed, full_check=True)
    feed = {name: array.astype(np.float32) for name, array in _feed(model).items()}
    expected, found = (open_model(each, threads=1).run(feed) for each in (model, changed))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5 * np.abs(array).max())


def test_transforms_leave_their_model_alone(graphs):
    for transform, graph, _ in CASES:
        before = graphs[graph].SerializeToString()
        _transformed(transform, graphs[graph])
        assert graphs[graph].SerializeToString() == before


def test_a_region_spans_sums_and_changes_of_form(graphs):
    first, second, third = Channels(graphs["residual"]).regions()
    assert set(first.places) == set("adefghijkl")
    assert set(first.sources) == {"stem", "mixed"}
    assert set(first.sinks) == {"wide", "depth"}
    assert first.places["k"] == (2, 5)
    assert first.read() == {"a": 1, "l": 1}
    assert (set(second.sources), set(second.sinks)) == ({"wide"}, {"mixed"})
    assert (set(third.sources), set(third.sinks)) == ({"again"}, {"last"})


@pytest.mark.parametrize(
    ("old", "new", "ended"),
    [
        ("[wide_act] c = Relu (b)", "[wide_act] c = Sigmoid (b)", "bc"),
        ("[sum] e = Add (a, d)", "[sum] e = Mul (a, d)", "adefghijkl"),
        ("<axis=0> (i, j)", "<axis=2> (i, j)", "adefghijkl"),
    ],
)
def test_a_region_ends_at_what_sees_the_channels(graphs, build, old, new, ended):
    constants = {
        each.name: numpy_helper.to_array(each) for each in graphs["residual"].graph.initializer
    }
    text = RESIDUAL.replace(old, new)
    if "axis=2" in new:
        constants["depth_w"] = np.tile(constants["depth_w"], (2, 1, 1, 1))
        constants["last_w"] = np.tile(constants["last_w"], (1, 2, 1, 1))
        constants["again_w"] = np.tile(constants["again_w"], (2, 1, 1, 1))
        text = text.replace("group=8", "group=16")
    found = [
        name for region in Channels(build(text, **constants)).regions() for name in region.places
    ]
    assert found
    assert not set(ended) & set(found)


def test_channels_of_an_output_stay(convolutions):
    names = [name for region in Channels(convolutions).regions() for name in region.places]
    assert "embedding" not in names
    assert set(names) == {"c", "d"}


def test_balance_follows_smoothquant():
    peaks, weights = np.array([64.0, 4.0, 1.0]), np.array([1.0, 1.0, 4.0])
    factors = balance(peaks, weights, 0.5)
    # The square roots of 64, 4 and 1 / 4 around their geometric mean 4, to powers of two.
    np.testing.assert_array_equal(factors, [4, 1, 0.25][: len(factors)])
    assert factors.dtype == np.float32


def test_balance_at_full_strength_makes_channels_alike():
    peaks = np.array([64.0, 4.0, 1.0])
    even = peaks / balance(peaks, np.ones(3), 1)
    assert even.max() <= 2 * even.min()


def test_balance_leaves_idle_channels_alone():
    factors = balance(np.array([0.0, 8.0, 2.0]), np.array([1.0, 0.0, 3.0]), 0.5)
    np.testing.assert_array_equal(factors, 1)


def test_balance_bounds_channels_that_sleep():
    factors = balance(np.array([1.0, 1e-30]), np.ones(2), 1)
    np.testing.assert_array_equal(factors, [2.0**6, 2.0**-6])
