"""Channels are followed through every node that hands them on, in both directions, and no other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration.carriers import Place, carried
from saymask.calibration.graph import Graph

NODES = """
<ir_version: 9, opset_import: ["" : 20]>
net (float[2,8,4,6] x, float[2,8,4,6] y, float[2,1,4,6] narrow) => (float[2,8,4,6] out) {
  [relu] r = Relu (x)
  [sum] s = Add (x, y)
  [spread] w = Add (x, narrow)
  [turn] t = Transpose <perm=[0,2,3,1]> (x)
  [flat] f = Reshape (t, flat_shape)
  [mix] m = Reshape (x, flat_shape)
  [join] j = Concat <axis=2> (x, y)
  [double] d = Concat <axis=1> (x, y)
  [pad] p = Pad (x, rim)
  [grow] g = Pad (x, more)
  [fill] l = Pad (x, rim, one)
  [rows] o = MatMul (matrix, x)
  [first] u = Unsqueeze (x, zero)
  [total] a = ReduceSum <keepdims=0> (u, zero)
  [gelu] e = Gelu (x)
  [cells] c = ReduceSum <keepdims=0> (x, two)
  [same] out = Identity (x)
}
"""


@pytest.fixture(scope="module")
def model(build) -> onnx.ModelProto:
    """One node of each kind."""
    return build(
        NODES,
        flat_shape=np.array([2, 24, 8]),
        rim=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        more=np.array([0, 1, 0, 0, 0, 0, 0, 0]),
        one=np.array(1, np.float32),
        matrix=np.ones((5, 4), np.float32),
        zero=np.array([0]),
        two=np.array([2]),
    )


@pytest.mark.parametrize(
    ("node", "places"),
    [
        ("relu", {"x": (1, 4), "r": (1, 4)}),
        ("sum", {"x": (1, 4), "y": (1, 4), "s": (1, 4)}),
        ("turn", {"x": (1, 4), "t": (3, 4)}),
        ("flat", {"t": (3, 4), "f": (2, 3)}),
        ("join", {"x": (1, 4), "y": (1, 4), "j": (1, 4)}),
        ("pad", {"x": (1, 4), "p": (1, 4)}),
        ("rows", {"x": (1, 4), "o": (1, 4)}),
        ("first", {"x": (1, 4), "u": (2, 5)}),
        ("total", {"u": (2, 5), "a": (1, 4)}),
    ],
)
def test_channels_are_followed_from_any_side(model, node, places):
    for name, place in places.items():
        assert _carried(model, node, name, place) == places


@pytest.mark.parametrize(
    ("node", "place"),
    [
        ("spread", (1, 4)),  # One channel meets eight.
        ("mix", (3, 4)),  # The last axis changes its extent.
        ("turn", None),  # It neither reads nor makes the tensor.
        ("double", (1, 4)),
        ("grow", (1, 4)),
        ("fill", (1, 4)),
        ("rows", (2, 4)),
        ("total", (0, 5)),
        ("gelu", (1, 4)),
        ("cells", (1, 4)),
    ],
)
def test_other_nodes_hand_nothing_on(model, node, place):
    name = {"total": "u"}.get(node, "x" if place else "y")
    assert _carried(model, node, name, place or (1, 4)) == {}


def _carried(model: onnx.ModelProto, node: str, name: str, place: tuple[int, int]) -> dict:
    graph = Graph(model)
    chosen = next(each for each in graph.nodes if each.name == node)
    return carried(graph, graph.extents(), chosen, name, Place(*place))
