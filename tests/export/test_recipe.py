from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import onnx
import pytest

from saymask.calibration.quantize import candidates
from saymask.export.recipe import FORCEABLE, PRECISIONS, ExportRecipe

PRODUCT = """
<ir_version: 9, opset_import: ["" : 20]>
product (float[2,4] x) => (float[2,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
{ [all] y = MatMul (x, w) }
"""


def test_a_recipe_needs_a_system_and_a_place_alone():
    recipe = ExportRecipe(system="evf-sam", out=Path("bundle"))
    assert recipe.precision in PRECISIONS
    assert recipe.forced is None
    with pytest.raises(FrozenInstanceError):
        recipe.precision = "int8"  # type: ignore[misc]


def test_what_can_be_forced_is_what_calibration_makes():
    feeds = [{"x": np.float32([[1, 2, 3, 4], [4, 3, 2, 1]])}]
    found = candidates(onnx.parser.parse_model(PRODUCT), feeds)
    assert {each.precision for each in found} == set(FORCEABLE)
