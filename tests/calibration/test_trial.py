"""Candidates are measured for what they are."""

from __future__ import annotations

import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest

from saymask.calibration import quantize
from saymask.calibration.arrays import StoredArrays
from saymask.calibration.hosts import OPENVINO
from saymask.calibration.quantize import Candidate
from saymask.calibration.trial import Difference, Trial, measure
from saymask.runtime.errors import OutputError, UsageError


@pytest.fixture(scope="module")
def sign(build):
    """Makes a candidate that multiplies by a factor."""

    def sign(precision: str, factor: float) -> Candidate:
        model = build(
            """
            <ir_version: 9, opset_import: ["" : 20]>
            net (float[2] x) => (float[2] y) { [times] y = Mul (x, factor) }
            """,
            factor=np.float32(factor),
        )
        return Candidate(precision=precision, model=model, plan={})

    return sign


def test_every_candidate_beside_fp32(tokens, sentences):
    found = quantize.candidates(tokens, sentences)
    fp32, static, dynamic = measure(found, sentences, threads=1, rounds=3)
    assert [trial.candidate for trial in (fp32, static, dynamic)] == list(found)
    assert fp32.differences[0].output == "states"
    assert fp32.differences[0].max_abs == 0
    assert fp32.least_cosine == pytest.approx(1)
    assert 0.999 < static.least_cosine < 1
    assert 0 < dynamic.differences[0].max_abs < 1
    assert min(trial.median_ms for trial in (fp32, static, dynamic)) > 0
    assert [trial.integer_kernels for trial in (fp32, static, dynamic)] == [0, 4, 4]


@pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed")
def test_openvino_measures_its_own_graphs(tokens, sentences):
    found = quantize.candidates(tokens, sentences, target="openvino")
    fp32, static = measure(found, sentences, threads=1, rounds=1, host=OPENVINO)
    assert [trial.integer_kernels for trial in (fp32, static)] == [0, 4]
    assert 0.999 < static.least_cosine < 1


@pytest.mark.parametrize(
    ("factor", "cosine", "max_abs"), [(-1, -1, 8), (0, 0, 4), (3, 1, 8), (np.nan, np.nan, np.nan)]
)
def test_differences_over_all_feeds(sign, factor, cosine, max_abs):
    feeds = [{"x": np.float32([1, 2])}, {"x": np.float32([4, -3])}]
    _, other = measure([sign("fp32", 1), sign("int8-static", factor)], feeds, threads=1, rounds=1)
    assert other.least_cosine == pytest.approx(cosine, nan_ok=True)
    assert other.differences[0].max_abs == pytest.approx(max_abs, nan_ok=True)


class _Wide:
    """An engine that makes a MiB of every feed, in memory that Python sees."""

    def run(self, inputs):
        return {"y": np.full(2**18, inputs["x"][0], np.float32)}

    def close(self):
        pass


class _Here:
    """A host that opens it."""

    def open(self, model, *, threads):
        return _Wide()


def test_outputs_take_no_more_memory_with_every_feed(sign):
    pair, peaks_mib = [sign("fp32", 1), sign("int8-static", 1)], []
    for count in (1, 24):
        feeds = [{"x": np.float32([number, 0])} for number in range(count)]
        tracemalloc.start()
        _, other = measure(pair, feeds, threads=1, rounds=0, host=_Here())
        peaks_mib.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
        assert other.least_cosine == pytest.approx(1)
    assert peaks_mib[1] < peaks_mib[0] + 4, "a MiB for each of 24 feeds would be 23 more"


def test_outputs_that_find_no_room_on_disk(sign, monkeypatch):
    def full(folder, arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoredArrays, "write", full)
    with pytest.raises(OutputError, match="outputs for 1 feeds must lie on disk.*No space left"):
        measure([sign("fp32", 1)], [{"x": np.float32([1, 2])}], threads=1, rounds=0)


def test_zeros_are_alike(sign):
    pair = [sign("fp32", 0), sign("int8-static", 0)]
    _, other = measure(pair, [{"x": np.float32([1, 2])}], threads=1, rounds=1)
    assert other.least_cosine == 1.0


def test_one_bad_output_spoils_the_least_cosine(sign):
    differences = tuple(
        Difference(output=name, max_abs=0.0, cosine=cosine)
        for name, cosine in (("good", 0.9), ("bad", np.nan))
    )
    trial = Trial(
        candidate=sign("fp32", 1), median_ms=1.0, differences=differences, integer_kernels=0
    )
    assert np.isnan(trial.least_cosine)


@pytest.mark.parametrize(
    ("names", "feeds", "rounds"),
    [
        (["int8-static"], [{"x": np.float32([1, 2])}], 1),
        (["fp32"], [], 1),
        (["fp32"], [{"x": np.float32([1, 2])}], -1),
    ],
)
def test_a_comparison_needs_its_parts(sign, names, feeds, rounds):
    with pytest.raises(UsageError, match="a comparison needs the candidate fp32, a feed"):
        measure([sign(name, 1) for name in names], feeds, threads=1, rounds=rounds)
