"""The quickest good candidate is taken, and the sentence says why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration import precision, quantize
from saymask.calibration.plan import NodePlan
from saymask.calibration.quantize import Candidate
from saymask.calibration.trial import Difference, Trial
from saymask.runtime.errors import UnknownNameError
from saymask.runtime.spec import LatencyRow


def _trial(name: str, median_ms: float, cosine: float = 0.9995) -> Trial:
    is_integer = name != "fp32"
    plan = {"node": NodePlan(precision="int8", reason="")} if is_integer else {}
    return Trial(
        candidate=Candidate(precision=name, model=onnx.ModelProto(), plan=plan),
        median_ms=median_ms,
        differences=(Difference(output="y", max_abs=0.1, cosine=cosine),),
        integer_kernels=int(is_integer),
    )


def _decide(*trials: Trial, **options) -> precision.Choice:
    return precision.decide(trials, floor=0.99, **options)


def test_the_quickest_is_taken():
    choice = _decide(_trial("fp32", 4), _trial("int8-static", 2.5), _trial("int8-dynamic", 2))
    assert choice.candidate.precision == "int8-dynamic"
    assert choice.reason == (
        "int8-dynamic takes 2.00 ms where fp32 takes 4.00 ms (2.00x) at cosine 0.99950, "
        "with 1 of 1 nodes in integers"
    )


@pytest.mark.parametrize(
    ("static_ms", "cosine", "taken"),
    [
        (2.05, 0.9999, "int8-static"),
        (2.05, 0.9990, "int8-dynamic"),
        (2.05, np.nan, "int8-dynamic"),
        (2.10, 0.9999, "int8-dynamic"),
    ],
)
def test_of_those_as_quick_the_nearest_to_fp32_is_taken(static_ms, cosine, taken):
    trials = _trial("int8-static", static_ms, cosine), _trial("int8-dynamic", 2)
    assert _decide(_trial("fp32", 4), *trials).candidate.precision == taken


@pytest.mark.parametrize("median_ms", [9.0, 4.0, 3.9])
def test_what_is_not_faster_is_dropped(median_ms):
    choice = _decide(_trial("fp32", 4), _trial("int8-static", median_ms))
    assert choice.candidate.precision == "fp32"
    assert choice.reason == (
        f"fp32 takes 4.00 ms; int8-static was dropped: {median_ms:.2f} ms is no gain "
        f"({4 / median_ms:.2f}x)"
    )


@pytest.mark.parametrize("cosine", [0.95, np.nan])
def test_what_differs_too_much_is_refused(cosine):
    trials = _trial("fp32", 4), _trial("int8-static", 3), _trial("int8-dynamic", 2, cosine)
    choice = _decide(*trials)
    assert choice.candidate.precision == "int8-static"
    assert f"int8-dynamic was refused: cosine {cosine:.5f} is below 0.99" in choice.reason


def test_the_judge_has_the_last_word():
    asked = []

    def judge(candidate: Candidate) -> str:
        asked.append(candidate.precision)
        return "gIoU falls by 0.02" if candidate.precision == "int8-dynamic" else ""

    trials = _trial("fp32", 4), _trial("int8-static", 3), _trial("int8-dynamic", 2)
    choice = _decide(*trials, judge=judge)
    assert choice.candidate.precision == "int8-static"
    assert choice.reason.endswith("; int8-dynamic was refused: gIoU falls by 0.02")
    assert asked == ["int8-dynamic", "int8-static"]


def test_the_judge_is_not_asked_about_the_slow_and_the_bad():
    trials = _trial("fp32", 4), _trial("int8-static", 5), _trial("int8-dynamic", 2, 0.5)
    assert _decide(*trials, judge=pytest.fail).candidate.precision == "fp32"


def test_only_fp32():
    choice = _decide(_trial("fp32", 4))
    assert choice.candidate.precision == "fp32"
    assert choice.reason == "fp32 takes 4.00 ms; no node of it may become INT8"


def test_a_forced_precision_is_taken_whatever_it_costs():
    choice = _decide(_trial("fp32", 4), _trial("int8-static", 8, 0.5), forced="int8-static")
    assert choice.candidate.precision == "int8-static"
    assert choice.reason.startswith("int8-static was asked for; int8-static takes 8.00 ms where")
    with pytest.raises(UnknownNameError, match="must be one of fp32; got 'int4'"):
        _decide(_trial("fp32", 4), forced="int4")


def test_the_report_has_a_row_for_every_candidate():
    choice = _decide(_trial("fp32", 4), _trial("int8-static", 2))
    assert choice.latency("image") == (
        LatencyRow(stage="image", precision="fp32", median_ms=4, is_taken=False),
        LatencyRow(stage="image", precision="int8-static", median_ms=2, is_taken=True),
    )


def test_a_stage_from_graph_to_choice(tokens, sentences):
    candidates = quantize.candidates(tokens, sentences)
    choice = precision.choose(
        candidates, sentences, floor=0.99, threads=1, rounds=2, forced="int8-dynamic"
    )
    assert choice.candidate is candidates[2]
    assert [row.is_taken for row in choice.latency("prompt")] == [False, False, True]
    assert "with 4 of 4 nodes in integers" in choice.reason
