"""FP8 needs Ada, and leaves convolutions alone."""

from __future__ import annotations

import pytest

from saymask.calibration.fp8 import FP8_KEEP, check_fp8
from saymask.calibration.plan import plan_nodes
from saymask.runtime.errors import DeviceError


@pytest.mark.parametrize("sm", [89, 90, 100, 110, 120])
def test_gpus_with_fp8(sm):
    check_fp8(sm)


@pytest.mark.parametrize(
    ("sm", "name"), [(87, r"8\.7 \(Jetson Orin\)"), (86, r"8\.6"), (75, "7.5")]
)
def test_gpus_without_fp8(sm, name):
    with pytest.raises(DeviceError, match=f"no FP8 arithmetic; got {name}; take --int8"):
        check_fp8(sm)


def test_convolutions_stay(convolutions):
    plan = plan_nodes(convolutions, keep=FP8_KEEP)
    assert {each.precision for each in plan.values()} == {"fp32"}
