"""Who writes a stage in small numbers: saymask, or NVIDIA ModelOpt in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx

from ..calibration import quantize
from ..calibration.gains import drop_slow
from ..calibration.modelopt import METHODS, modelopt_candidates
from ..calibration.quantize import Calibration, Candidate
from ..calibration.storage import spill
from ..runtime.errors import UnknownNameError, UsageError
from .recipe import ExportRecipe

__all__ = ["QUANTIZERS", "Quantize", "quantizer"]

Quantize = Callable[..., tuple[Candidate, ...]]
"""Takes a graph, feeds and a `calibration`; see `calibration.quantize.candidates`."""
_TENSORRT = ("rtx", "tensorrt")
"""Targets that read Q/DQ as ModelOpt writes it."""
_FEW = 3
"""Inputs that blocks are timed on."""


def quantizer(recipe: ExportRecipe) -> Quantize:
    """Return what makes the candidates of each stage.

    Raises:
        UnknownNameError: There is no such quantizer, or it has no such precision.
        UsageError: It does not do what is asked for the target, or follows no plan.
    """
    if recipe.quantizer not in QUANTIZERS:
        raise UnknownNameError("quantizer", recipe.quantizer, QUANTIZERS)
    if recipe.drops_slow and recipe.plan is not None:
        raise UsageError(
            f"--drop-slow decides what --plan {recipe.plan} says already; got both; leave one out"
        )
    if recipe.drops_slow and recipe.target != "cpu":
        raise UsageError(
            f"blocks are timed on this CPU; got --drop-slow with --target {recipe.target}; leave "
            "one of both out"
        )
    return QUANTIZERS[recipe.quantizer](recipe)


def _saymask(recipe: ExportRecipe) -> Quantize:
    own = partial(quantize.candidates, target=recipe.target, precision=recipe.precision)
    return partial(_quick, own) if recipe.drops_slow else own


def _quick(
    own: Quantize,
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    calibration: Calibration,
) -> tuple[Candidate, ...]:
    """Return candidates whose blocks are in INT8 only where that is quicker."""
    fp32, *small = own(model, feeds, calibration=calibration)
    plain, folder = quantize.plannable(model), calibration.folder
    kept = [fp32]
    for each in small:
        # Timed by the thread's own processor time: steady on a busy machine.
        quick = drop_slow(fp32, each, plain, feeds[:_FEW], threads=1)
        if folder and quick is not each:
            quick = replace(quick, model=spill(quick.model, folder / f"{quick.precision}.quick"))
        kept.append(quick)
    return tuple(kept)


def _modelopt(recipe: ExportRecipe) -> Quantize:
    if recipe.precision not in METHODS:
        raise UnknownNameError("ModelOpt's precision", recipe.precision, METHODS)
    if recipe.target not in _TENSORRT:
        raise UsageError(
            f"ModelOpt writes graphs for TensorRT; got the target {recipe.target}; add --target "
            "rtx, or take --quantizer saymask"
        )
    if recipe.plan is not None:
        raise UsageError(
            f"ModelOpt decides by itself what it quantizes; got the plan {recipe.plan}; leave it "
            "out, or take --quantizer saymask"
        )
    return partial(modelopt_candidates, precision=recipe.precision, python=recipe.modelopt_python)


QUANTIZERS = {"saymask": _saymask, "modelopt": _modelopt}
"""Name -> function of a recipe that returns a `Quantize`."""
