"""FP8 needs Ada; its graphs run on a CPU all the same."""

from __future__ import annotations

import pytest

from saymask.calibration.fp8 import FP8_KEEP, check_fp8, simulate_fp8
from saymask.calibration.plan import plan_nodes
from saymask.calibration.ranges import observe
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors
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


def test_a_graph_is_simulated_in_the_same_numbers(tokens, sentences, cosine):
    plan = plan_nodes(tokens)
    names = symmetric_tensors(tokens, plan, element="fp8", attention=True)
    ranges = {k: v.range(100) for k, v in observe(tokens, sentences, names).items()}
    lowered = lower_symmetric(tokens, plan, ranges, element="fp8", attention=True)
    simulated = simulate_fp8(lowered)
    assert "DequantizeLinear" not in {node.op_type for node in simulated.graph.node}
    assert list(simulated.graph.output) == list(tokens.graph.output)
    assert 0.996 < cosine(simulated, tokens, sentences) < 0.9999


def test_convolutions_stay(convolutions):
    plan = plan_nodes(convolutions, keep=FP8_KEEP)
    assert {each.precision for each in plan.values()} == {"fp32"}
