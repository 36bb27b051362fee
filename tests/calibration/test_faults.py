"""The first node that makes no number is found, wherever the line is cut."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration.faults import first_fault
from saymask.calibration.segments import Line


@pytest.fixture
def line(build, tmp_path) -> Line:
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        broken (float[1,64] x) => (float[1,64] z) {
          [wide] a = Exp (x)
          [ratio] b = Div (a, a)
          [side] s = Log (x)
          [end] y = Neg (b)
          [both] z = Add (y, s)
        }
        """
    )
    return Line.of(model, ["y", "z"], tmp_path)


def _fault(line: Line, tensor: str, value: float, most_bytes: int = 2**20) -> str:
    feed = {"x": np.full((1, 64), value, np.float32)}
    return first_fault(line, feed, tensor, threads=1, most_bytes=most_bytes)


@pytest.mark.parametrize("most_bytes", [2**20, 600])
def test_the_first_one_on_the_way_is_named(line, most_bytes):
    found = _fault(line, "y", 100, most_bytes)
    assert found.startswith("node 'wide' (Exp) is the first to make infinity, in 'a'")


def test_another_branch_is_not_to_blame(line):
    assert "no node makes it" in _fault(line, "y", -1)
    assert "node 'side' (Log) is the first to make NaN, in 's'" in _fault(line, "z", -1)


def test_the_data_may_be_to_blame(line):
    assert _fault(line, "y", np.nan).startswith("the graph's input 'x' already holds it")
