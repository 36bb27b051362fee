"""As many runs as it takes to know how far channels reach, no more."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration.peaks import runs_for_peaks

TEXT = """
<ir_version: 9, opset_import: ["" : 20]>
norms (float[1,%s,8] x) => (float[1,n,8] y) {
  [few] a = ReduceMean <keepdims = 1> (x, axes)
  [back] y = Neg (x)
}
"""


def _chosen(model, feeds, axes) -> list[int]:
    """Say the numbers of the chosen feeds."""
    numbers = {id(feed): number for number, feed in enumerate(feeds)}
    return [numbers[id(feed)] for feed in runs_for_peaks(model, feeds, axes)]


@pytest.fixture
def model(build):
    return build(TEXT % "n", axes=np.array([1]))


def _feeds(count: int, positions: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.zeros((1, positions, 8), np.float32)} for _ in range(count)]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [(2**16, [5]), (2**15, [2, 7]), (2**15 - 1, [1, 5, 8]), (2**14 - 1, [1, 3, 5, 7, 9]),
     (4096, [*range(10)])],
)  # fmt: skip
def test_enough_values_evenly_over_the_runs(model, positions, expected):
    assert _chosen(model, _feeds(10, positions), {"x": 2, "y": 2}) == expected


def test_the_tensor_with_the_fewest_values_decides(model):
    feeds = _feeds(10, 2**16)
    assert _chosen(model, feeds, {"y": 2}) == [5]
    assert _chosen(model, feeds, {"y": 2, "a": 2}) == [*range(10)]


def test_what_is_not_known_takes_all_runs(build):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        found (float[n] x) => (int64[1,m] y) { [find] y = NonZero (x) }
        """
    )
    feeds = [{"x": np.ones(2**17, np.float32)} for _ in range(3)]
    assert _chosen(model, feeds, {"x": 0}) == [0, 1, 2], "one value of each channel"
    assert _chosen(model, feeds, {"y": 0}) == [0, 1, 2]


def test_nothing_to_look_at(model):
    feeds = _feeds(3, 1)
    assert runs_for_peaks(model, feeds, {}) is feeds
    assert runs_for_peaks(model, [], {"x": 2}) == []
