"""Plans and calibration data are looked at before a network is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saymask.calibration.plan import NodePlan
from saymask.calibration.plan_file import Plan, StagePlan, text_from_plan
from saymask.export.recipe import ExportRecipe
from saymask.export.wishes import check_wishes
from saymask.runtime.errors import InputError, SourceError, UsageError


@pytest.fixture
def recipe(tmp_path) -> ExportRecipe:
    return ExportRecipe(system="evf-sam", out=tmp_path / "out", precision="int8", target="rtx")


@pytest.fixture
def plan(tmp_path) -> Path:
    nodes = {"conv": NodePlan(precision="int8", reason="why not")}
    stages = {"image": StagePlan(graph_sha256="0" * 64, nodes=nodes)}
    path = tmp_path / "plan.json"
    plan = Plan(system="evf-sam", variant="mini", target="rtx", stages=stages)
    path.write_text(text_from_plan(plan))
    return path


def test_what_fits_is_taken(recipe, plan, tmp_path):
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("the red mug")
    check_wishes(replace(recipe, plan=plan, calib="pictures", calib_phrases=phrases), "mini")
    check_wishes(replace(recipe, precision="fp32"), "mini")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nothing_is_rounded_that_they_would_be_for(recipe, plan, precision):
    recipe = replace(recipe, precision=precision)
    with pytest.raises(UsageError, match=rf"--plan must go with .* got {precision}; add --int8"):
        check_wishes(replace(recipe, plan=plan), "mini")
    with pytest.raises(UsageError, match="--calib and --calib-phrases must go with"):
        check_wishes(replace(recipe, calib="pictures", calib_phrases=Path("said.txt")), "mini")


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("bits", [7, 8])
def test_weights_for_a_cpu_have_seven_or_eight_bits(recipe, target, bits):
    check_wishes(replace(recipe, target=target, weight_bits=bits), "mini")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": "rtx", "weight_bits": 7}, "got 7 with int8 for rtx; leave it out"),
        ({"target": "cpu", "weight_bits": 6}, "must be 7 or 8 .*; got 6 with int8 for cpu"),
        ({"target": "cpu", "precision": "fp32", "weight_bits": 8}, "got 8 with fp32 for cpu"),
    ],
)
def test_other_weights_are_refused(recipe, change, said):
    with pytest.raises(UsageError, match=said):
        check_wishes(replace(recipe, **change), "mini")


def test_a_plan_of_something_else(recipe, plan, tmp_path):
    for change, said in (
        ({"plan": tmp_path / "none.json"}, "none.json"),
        ({"target": "cpu"}, "rtx"),
    ):
        with pytest.raises(InputError, match=said):
            check_wishes(replace(recipe, **{"plan": plan, **change}), "mini")
    with pytest.raises(InputError, match="variant"):
        check_wishes(replace(recipe, plan=plan), "sam-h-beit3-large")


def test_phrases_that_are_not_there(recipe, tmp_path):
    with pytest.raises(SourceError, match="phrases must be a readable text"):
        check_wishes(replace(recipe, calib_phrases=tmp_path / "none.txt"), "mini")
