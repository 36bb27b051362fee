"""Floats in FP16, as `saymask build` makes them of a bundle's graphs, judged by their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from ..calibration.gate import Judge
from ..calibration.gate_report import StageRow, gate_report, stage_row
from ..calibration.passes import split_gemms
from ..calibration.plan import WEIGHTED_OPS, NodePlan
from ..calibration.plan_file import Plan, StagePlan, model_sha256
from ..calibration.precision import Choice
from ..calibration.quantize import Candidate
from ..calibration.samples import Sample
from ..calibration.storage import read, spill
from ..calibration.trial import Trial, measure
from ..runtime.engine_cache import TARGETS
from ..runtime.errors import GateError, UsageError
from ..runtime.systems import System
from .halve import element_types, halve
from .quantization import FEW, Quantized, Reference, judge_of
from .recipe import ExportRecipe
from .rounded import rounded
from .steps import Steps

__all__ = ["check_half", "judge_halves"]

_ISLAND = "sums or divides what FP16 has too few digits or too small a range for"


@dataclass(frozen=True, slots=True)
class _Half:
    """One stage in FP16."""

    model: onnx.ModelProto
    """A graph that rounds as FP16 does."""
    trial: Trial
    """What that was beside FP32; its candidate is the graph with FP16 weights."""
    fp32: Trial
    """FP32 itself."""


def check_half(recipe: ExportRecipe) -> None:
    """Refuse to make FP16 of what gains nothing by it or decides otherwise.

    Raises:
        UsageError: The target is no TensorRT, or a plan is given.
    """
    if recipe.target not in TARGETS:
        raise UsageError(
            f"--fp16 must go with --target {' or '.join(TARGETS)}; got {recipe.target}, on whose "
            "CPU kernels FP16 gains nothing: they cast to FP32 and back; leave --target out, or "
            "take --int8"
        )
    if recipe.plan is not None:
        raise UsageError(
            f"--fp16 follows no plan, as saymask build decides by rule what stays FP32; got "
            f"{recipe.plan}; leave --plan out"
        )


def judge_halves(
    recipe: ExportRecipe,
    variant: str,
    graphs: Mapping[str, Path],
    system: System,
    samples: Sequence[Sample],
    reference: Reference,
    folder: Path,
    steps: Steps,
) -> Quantized:
    """Round every stage as its engine will in FP16, and look at the masks.

    The graphs of the bundle stay FP32, as `saymask build` halves them itself.

    Args:
        recipe: Its precision is "fp16".
        variant: Size of the networks.
        graphs: Stage name -> FP32 graph.
        system: In FP32; its engines are closed, as graphs and engines are opened one by one.
        samples: What the masks are judged on.
        reference: What `system` made of them.
        folder: Takes weights, so that few are in memory.
        steps: Are told what happens.

    Raises:
        GateError: An output overflows, or the masks lose more than the recipe allows.
    """
    judge = judge_of(recipe, graphs, system, samples, reference)
    halves, rows, plans, choices = {}, {}, {}, {}
    for name, graph in graphs.items():
        with steps.step(f"halve {name}"):
            feeds = [run.inputs for run in reference.runs[name]]
            halves[name] = _halved(name, read(graph), feeds, folder / name)
            rows[name] = _row(name, halves[name])
            plans[name] = _plan(read(graph), halves[name])
        choices[name] = _choice(read(graph), halves[name])
        steps.say(f"chose {name}: {choices[name].reason}")
    with steps.step("judge"):
        models = {name: half.model for name, half in halves.items()}
        found = judge.scored(models)
        if not found.loss.lost <= recipe.max_iou_drop:
            raise GateError(_failure(recipe, judge, models, found.loss.lost))
    return Quantized(
        choices=choices,
        plan=Plan(system=recipe.system, variant=variant, target=recipe.target, stages=plans),
        report=gate_report(
            rows, reference.scores, found.scores, found.loss, budget=recipe.max_iou_drop
        ),
        scores=found.scores,
    )


def _halved(
    name: str, model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]], folder: Path
) -> _Half:
    folder.mkdir()
    half = spill(halve(model), folder / "half.onnx")
    simulated = spill(rounded(half), folder / "rounded.onnx")
    both = [
        Candidate(precision="fp32", model=model, plan={}),
        Candidate(precision="fp16", model=simulated, plan={}),
    ]
    with np.errstate(invalid="ignore", over="ignore"):
        fp32, trial = measure(both, feeds[:FEW], threads=1, rounds=0)
    endless = [each.output for each in trial.differences if not np.isfinite(each.cosine)]
    if endless:
        raise GateError(
            f"every output must stay finite in FP16; stage {name!r} overflows in "
            f"{', '.join(endless)}; export and build without --fp16"
        )
    # What was measured of the simulated graph is said of the one that it simulates.
    trial = replace(trial, candidate=replace(trial.candidate, model=half))
    return _Half(simulated, trial, fp32)


def _row(name: str, half: _Half) -> StageRow:
    return stage_row(name, half.fp32, half.trial, None)


def _plan(model: onnx.ModelProto, half: _Half) -> StagePlan:
    types = element_types(half.trial.candidate.model)
    halves = {
        node.name
        for node in half.trial.candidate.model.graph.node
        if any(types.get(name) == TensorProto.FLOAT16 for name in node.output)
    }
    plain = split_gemms(model)
    nodes = {
        node.name: NodePlan(precision="fp16", reason="")
        if node.name in halves
        else NodePlan(precision="fp32", reason=_ISLAND)
        for node in plain.graph.node
        if node.op_type in WEIGHTED_OPS
    }
    return StagePlan(graph_sha256=model_sha256(plain), nodes=nodes)


def _choice(model: onnx.ModelProto, half: _Half) -> Choice:
    return Choice(
        candidate=Candidate(precision="fp32", model=model, plan={}),
        reason=(
            "fp16 was asked for: saymask build makes it of this FP32 graph, at cosine "
            f"{half.trial.least_cosine:.5f}, simulated and not timed here"
        ),
        trials=(),
    )


def _failure(
    recipe: ExportRecipe, judge: Judge, models: Mapping[str, onnx.ModelProto], lost: float
) -> str:
    alone = ", ".join(f"{name} {judge({name: each}).lost:.2f}" for name, each in models.items())
    return (
        f"the masks must lose at most {recipe.max_iou_drop:g} gIoU points against FP32; in FP16 "
        f"they lose {lost:.2f} (each stage alone: {alone}); allow more with --max-iou-drop, give "
        "more --samples, or export and build without --fp16"
    )
