"""A traced graph beside the network it came from, on the inputs it really gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..calibration.recording import Run
from ..runtime.errors import EngineError
from .graph import Stage

__all__ = ["TOLERANCE", "verify"]

TOLERANCE = 1e-3
"""Largest difference from eager, as a share of the output's largest value."""


@torch.no_grad()
def verify(stage: Stage, runs: Sequence[Run]) -> float:
    """Compare a graph's recorded runs with the module in eager mode.

    Args:
        stage: The module, in the order of its inputs and outputs.
        runs: What the graph took and gave.

    Returns:
        The largest difference as a share of the eager output's largest value.

    Raises:
        EngineError: It is above `TOLERANCE`, or not a number.
    """
    worst = 0.0
    for run in runs:
        inputs = [torch.from_numpy(run.inputs[name]) for name in stage.examples]
        results = stage.module.eval()(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        for name, result in zip(stage.outputs, results, strict=True):
            eager = result.numpy()
            difference = np.abs(eager - run.outputs[name]).max()
            share = difference / max(np.abs(eager).max(), 1e-6)
            worst = float(np.maximum(worst, share))  # Unlike max(), it keeps a NaN.
    if not worst <= TOLERANCE:
        raise EngineError(
            f"the graph of stage {stage.name!r} must agree with PyTorch to {TOLERANCE:g}; "
            f"it differs by {worst:.2g}; the export is not to be trusted, please report it"
        )
    return worst
