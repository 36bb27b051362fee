import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saymask.calibration.recording import Run
from saymask.export.graph import Stage
from saymask.export.verify import TOLERANCE, verify
from saymask.runtime.errors import EngineError


class _Subtraction(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return left - right, 100 * left


STAGE = Stage(
    name="subtraction",
    module=_Subtraction(),
    examples={"left": torch.zeros(3), "right": torch.zeros(3)},
    outputs=("rest", "percent"),
    varying={},
)
INPUTS = {"right": np.float32([3, 2, 1]), "left": np.float32([1, 2, 5])}
"""In another order than the module takes them."""


def _run(**changed: list[float]) -> Run:
    outputs = {"percent": [100, 200, 500], "rest": [-2, 0, 4]} | changed
    return Run(INPUTS, {name: np.float32(values) for name, values in outputs.items()})


def test_a_graph_that_agrees_passes():
    assert verify(STAGE, [_run(), _run()]) == 0


def test_the_worst_difference_is_a_share_of_the_largest_value():
    runs = [_run(), _run(percent=[100, 200.1, 500]), _run()]
    assert verify(STAGE, runs) == pytest.approx(0.1 / 500, rel=1e-3)


def test_a_graph_that_differs_is_refused_with_its_figures():
    with pytest.raises(EngineError, match=f"'subtraction' .* {TOLERANCE:g}; it differs by 0.0025"):
        verify(STAGE, [_run(rest=[-2, 0.01, 4]), _run()])


@pytest.mark.parametrize("first", [True, False])
def test_a_graph_that_gives_no_number_is_refused(first):
    runs = [_run(rest=[-2, np.nan, 4]), _run()]
    with pytest.raises(EngineError, match="differs by nan"):
        verify(STAGE, runs if first else runs[::-1])


def test_outputs_of_another_batch_do_not_pass():
    with pytest.raises(ValueError, match="broadcast"):
        verify(STAGE, [_run(rest=[0, 0])])


def test_a_single_output_needs_no_tuple():
    stage = Stage(
        name="doubling",
        module=nn.Flatten(0),
        examples={"image": torch.zeros(1, 3)},
        outputs=("row",),
        varying={},
    )
    values = np.float32([[1, 2, 3]])
    assert verify(stage, [Run({"image": values}, {"row": values[0]})]) == 0
