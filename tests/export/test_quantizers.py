"""Each quantizer makes candidates of a graph, or says at once what it does not do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from saymask.calibration.quantize import Calibration, candidates
from saymask.export.quantizers import QUANTIZERS, quantizer
from saymask.export.recipe import ExportRecipe
from saymask.runtime.errors import MissingExtraError, UnknownNameError, UsageError

PRODUCT = """
<ir_version: 9, opset_import: ["" : 20]>
product (float[2,4] x) => (float[2,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
{ [all] y = MatMul (x, w) }
"""
FEEDS = [{"x": np.float32([[1, 2, 3, 4], [4, 3, 2, 1]])}]
RECIPE = ExportRecipe(system="evf-sam", out=Path("bundle"), precision="int8", target="rtx")


def test_saymask_makes_its_own_candidates():
    model = onnx.parser.parse_model(PRODUCT)
    found = quantizer(RECIPE)(model, FEEDS, calibration=Calibration())
    assert found[1].model == candidates(model, FEEDS, target="rtx", precision="int8")[1].model


def test_modelopt_is_asked_in_its_environment():
    recipe = replace(RECIPE, quantizer="modelopt", modelopt_python=Path("no-such-python"))
    with pytest.raises(MissingExtraError, match="must be installed for no-such-python"):
        quantizer(recipe)(onnx.parser.parse_model(PRODUCT), FEEDS, calibration=Calibration())


def test_blocks_are_in_int8_where_that_is_quicker(tmp_path):
    """A product this small is slower in INT8 than in FP32, and goes back."""
    recipe = replace(RECIPE, target="cpu", drops_slow=True)
    calibration = Calibration(folder=tmp_path)
    found = quantizer(recipe)(onnx.parser.parse_model(PRODUCT), FEEDS, calibration=calibration)
    assert [each.precision for each in found] == ["fp32", "int8-static", "int8-dynamic"]
    for each in found[1:]:
        assert each.plan["all"].precision == "fp32"
        assert each.plan["all"].reason.startswith("no gain: its block takes ")


def test_a_plan_leaves_nothing_to_time():
    with pytest.raises(UsageError, match="what --plan p.json says already; got both; leave one"):
        quantizer(replace(RECIPE, target="cpu", drops_slow=True, plan=Path("p.json")))


def test_blocks_are_timed_on_a_cpu_alone():
    with pytest.raises(UsageError, match="got --drop-slow with --target rtx"):
        quantizer(replace(RECIPE, drops_slow=True))


@pytest.mark.parametrize(
    ("wishes", "error", "said"),
    [
        ({"quantizer": "nncf"}, UnknownNameError, "quantizer must be one of modelopt, saymask"),
        ({"precision": "int8-weights"}, UnknownNameError, "one of fp8, int8; got 'int8-weights'"),
        ({"target": "cpu"}, UsageError, "got the target cpu; add --target rtx"),
        ({"plan": Path("plan.json")}, UsageError, "got the plan plan.json; leave it out"),
    ],
)
def test_what_modelopt_does_not_do(wishes, error, said):
    with pytest.raises(error, match=said):
        quantizer(replace(RECIPE, **{"quantizer": "modelopt", **wishes}))


def test_there_are_two():
    assert set(QUANTIZERS) == {"saymask", "modelopt"}
