"""A line of nodes is cut where little is carried, and its parts make what the whole makes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration.segments import Line, run
from saymask.calibration.session import open_model
from saymask.runtime.errors import UsageError

KIB = 1024


@pytest.fixture
def line(convolutions, tmp_path) -> Line:
    """The encoder of convolutions up to "i", watched in four places."""
    return Line.of(convolutions, ["image", "b", "d", "f", "i"], tmp_path)


def _sizes(line: Line, feed) -> dict[str, int]:
    return line.measure(feed, threads=1)


def test_only_what_leads_to_the_tensors_is_run(line):
    assert line.shown == ("b", "d", "f", "i")
    assert line.made == tuple("abcdefghi")
    assert line.maker("i").name == "depth"
    assert line.to(["b"]).made == ("a", "b")
    assert line.is_float("a")


def test_sizes_that_the_graph_states(line, images):
    sizes = _sizes(line, images[0])
    assert sizes["a"] == 16 * 16 * 16 * 4
    assert sizes["d"] == 64 * 16 * 16 * 4


def test_sizes_that_only_a_run_tells(build, tmp_path):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        text (int64[phrases,tokens] ids, float[n,4] table) => (float[m] y) {
          [look] e = Gather (table, ids)
          [few] f = ReduceMax (e)
          [all] i = NonZero (ids)
          [real] r = Cast <to=1> (i)
          [flat] y = Reshape (r, one)
        }
        """,
        one=np.array([-1]),
    )
    line = Line.of(model, ["e", "f", "y"], tmp_path)
    feed = {"ids": np.eye(3, 5, dtype=np.int64), "table": np.ones((9, 4), np.float32)}
    assert _sizes(line, feed) == {"e": 3 * 5 * 4 * 4, "f": 4, "i": 2 * 3 * 8, "r": 24, "y": 24}


def test_what_a_part_shows_and_carries(line):
    first, second = line.part(0, 3), line.part(3, 7)
    assert (first.shown, first.carried) == (("b",), ("b", "c"))
    assert (second.shown, second.carried) == (("d", "f"), ("g",))
    assert line.part(0, 9).carried == ()


def test_a_cut_carries_little(line, images):
    sizes = _sizes(line, images[0])
    first = line.cut(0, sizes, 100 * KIB)
    assert first == line.part(0, 6), "after the sum, where one tensor is alive"
    assert first.carried == ("f",)
    assert sum(sizes[name] for name in first.shown) == 96 * KIB
    assert line.cut(6, sizes, 100 * KIB).end == 9
    assert line.cut(0, sizes, 10**6) == line.part(0, 9)


def test_one_node_may_be_too_much(line, images):
    with pytest.raises(UsageError, match=r"node 'stem' needs 1 MiB of 0; give --calib-mem-mib 1 "):
        line.cut(0, _sizes(line, images[0]), KIB)


@pytest.mark.parametrize("cuts", [(), (6,), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_parts_make_what_the_whole_makes(line, convolutions, images, cuts):
    expected = open_model(convolutions, threads=1, expose=line.shown).run(images[0])
    carried, found = {}, {}
    for start, end in zip((0, *cuts), (*cuts, 9), strict=True):
        part = line.part(start, end)
        if part.shown or part.carried:
            made = run(line.open(part, threads=1), {**images[0], **carried})
            carried = {name: {**carried, **made}[name] for name in part.carried}
            found |= {name: made[name] for name in part.shown}
    assert list(found) == list(line.shown)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)


def test_a_part_opens_with_its_own_weights(line, tmp_path):
    line.open(line.part(6, 9), threads=1)
    model = onnx.load(tmp_path / "part.onnx", load_external_data=False)
    assert [each.name for each in model.graph.initializer] == ["down_w", "depth_w", "depth_b"]
    assert [each.name for each in model.graph.input] == ["f"]
    pointers = {each.key: each.value for each in model.graph.initializer[0].external_data}
    assert pointers["location"] == "whole.onnx.data"


def test_tensors_must_be_there(convolutions, tmp_path):
    with pytest.raises(UsageError, match="it has no nothing, stem_w; name those of its nodes"):
        Line.of(convolutions, ["b", "stem_w", "nothing"], tmp_path)
