import numpy as np

from saymask.calibration import extents as extents_module
from saymask.calibration.extents import extents_of


def _reshaped(build):
    return build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        text (int64[phrases,tokens] ids, float[64,4] table, float[64,4] places) => (float[m] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] flat = {-1}, int64[2] heads = {2, 2},
         int64 two = {2}> {
          [look] e = Gather (table, ids)
          [size] s = Shape (ids)
          [rows] n = Gather (s, zero)
          [long] l = Gather (s, one)
          [wide] w = Reshape (l, flat)
          [more] v = Add (w, two)
          [cut] p = Slice (places, zero, w, zero)
          [sum] a = Add (e, p)
          [join] h = Concat <axis=0> (n, w, heads)
          [turn] t = Reshape (a, h)
          [some] i = NonZero (t)
          [real] r = Cast <to=1> (i)
          [down] y = ReduceSum <keepdims=0> (r, zero)
        }
        """
    )


def _feed(phrases: int, tokens: int) -> dict[str, np.ndarray]:
    rows = np.zeros((64, 4), np.float32)
    return {"ids": np.zeros((phrases, tokens), np.int64), "table": rows, "places": rows}


def test_extents_follow_from_the_inputs_through_computed_sizes(build):
    extents = extents_of(_reshaped(build), _feed(3, 7))
    assert extents["e"] == (3, 7, 4)
    assert extents["p"] == (7, 4)
    assert extents["t"] == (3, 7, 2, 2)
    assert extents["h"] == (4,)
    assert extents["v"] == (1,)
    assert extents_of(_reshaped(build), _feed(1, 5))["t"] == (1, 5, 2, 2)


def test_what_hangs_on_values_stays_unknown(build):
    extents = extents_of(_reshaped(build), _feed(3, 7))
    assert 0 in extents.get("i", (0,))


def test_a_graph_without_sizes_to_work_out(build):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        plain (float[n,4] x) => (float[n,4] y) { [act] y = Relu (x) }
        """
    )
    assert extents_of(model, {"x": np.zeros((5, 4), np.float32)}) == {"x": (5, 4), "y": (5, 4)}


def test_weights_are_not_made_real_for_their_extents(build, monkeypatch):
    model = build(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        small (float[n,64] x) => (float[n,32] y) {
          [stored] w = DequantizeLinear (small, scale)
          [mix] y = MatMul (x, w)
        }
        """,
        small=np.ones((64, 32), np.int8),
        scale=np.ones((), np.float32),
    )
    monkeypatch.setattr(extents_module, "_worked_out", _nothing_but_no_nodes)
    feed = {"x": np.zeros((5, 64), np.float32)}
    assert extents_of(model, feed) == {"x": (5, 64), "w": (64, 32), "y": (5, 32)}


def _nothing_but_no_nodes(model, nodes, feed):
    assert not nodes
    return {}
