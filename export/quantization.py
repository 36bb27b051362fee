"""The stages of a system in small numbers: each chosen, all judged by their masks, and lifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from ..calibration import precision, quantize
from ..calibration.gate import Judge, samples_sha256, with_runs
from ..calibration.gate_report import GateReport, StageRow, gate_report, stage_row
from ..calibration.journal import Journal
from ..calibration.lifting import lift
from ..calibration.lowering import Lower
from ..calibration.plan import FLOATS, NodePlan
from ..calibration.plan_file import Plan, StagePlan, check_plan, model_sha256, read_plan
from ..calibration.precision import Choice
from ..calibration.qdq import runnable
from ..calibration.quantize import Calibration, Candidate
from ..calibration.recording import Run
from ..calibration.samples import Sample
from ..calibration.score import Score
from ..calibration.sensitivity import Subject, rank
from ..calibration.trial import measure
from ..runtime.systems import System
from .recipe import ExportRecipe
from .steps import Steps

__all__ = ["JOURNAL_FILE", "Quantized", "Reference", "quantize_stages"]

JOURNAL_FILE = "search.jsonl"
"""In the work folder: what a search has measured."""
_FEW = 3
"""Inputs of a stage that cosines are taken over."""
_ROUNDS = 5
LEAST_COSINE = 0.98
"""A stage whose outputs are further from FP32's is not worth asking the masks."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The FP32 system on the samples: what everything is held against."""

    runs: Mapping[str, list[Run]]
    """Stage name -> what it computed."""
    scores: dict[str, Score]
    """By task."""
    masks: list[np.ndarray]
    """(phrases, H, W) bool of each sample."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """What became of the stages."""

    choices: Mapping[str, Choice]
    """Stage name -> what it runs as, and why."""
    plan: Plan
    """What each weighted node computes in."""
    report: GateReport
    """What that costs and gains."""
    scores: Mapping[str, Score]
    """By task, all stages together."""


def quantize_stages(
    recipe: ExportRecipe,
    variant: str,
    graphs: Mapping[str, Path],
    system: System,
    samples: Sequence[Sample],
    reference: Reference,
    data: Mapping[str, Sequence[Run]],
    steps: Steps,
) -> Quantized:
    """Choose a form for each stage, and lift what costs the masks more than may be lost.

    Args:
        recipe: Its precision is not "fp32".
        variant: Size of the networks.
        graphs: Stage name -> FP32 graph.
        system: In FP32.
        samples: What the masks are judged on.
        reference: What `system` made of them.
        data: Stage name -> runs that ranges are taken from.
        steps: Are told what happens.

    Raises:
        GateError: The masks lose more than the recipe allows, whatever is lifted.
        InputError: The recipe's plan is not one for these graphs.
        SaymaskError: See `calibration.quantize.candidates`.
    """
    judge = Judge(
        system=with_runs(system, reference.runs),
        samples=samples,
        scores=reference.scores,
        masks=reference.masks,
        threads=recipe.threads,
    )
    plain = {name: quantize.plannable(onnx.load(graph)) for name, graph in graphs.items()}
    given = _given(recipe, variant, plain)
    choices = {}
    for name, graph in graphs.items():
        with steps.step(f"quantize {name}"):
            choices[name] = _choose(recipe, name, graph, reference, data[name], judge, given, steps)
        steps.say(f"chose {name}: {choices[name].reason}")
    with steps.step("judge"):
        choices = _lifted(recipe, plain, choices, samples, reference, judge, steps)
        found = judge.scored(_runnable(choices))
    rows = {
        name: _row(recipe, name, plain[name], choice, reference.runs[name])
        for name, choice in choices.items()
    }
    return Quantized(
        choices=choices,
        plan=_plan(recipe, variant, plain, choices),
        report=gate_report(
            rows, reference.scores, found.scores, found.loss, budget=recipe.max_iou_drop
        ),
        scores=found.scores,
    )


def _given(recipe: ExportRecipe, variant: str, plain: Mapping[str, onnx.ModelProto]) -> Plan | None:
    """Read the plan that the user gives back; None where none is given."""
    if recipe.plan is None:
        return None
    plan = read_plan(recipe.plan)
    check_plan(plan, plain, system=recipe.system, variant=variant, target=recipe.target)
    return plan


def _plan(
    recipe: ExportRecipe,
    variant: str,
    plain: Mapping[str, onnx.ModelProto],
    choices: Mapping[str, Choice],
) -> Plan:
    stages = {
        name: StagePlan(graph_sha256=model_sha256(plain[name]), nodes=choice.candidate.plan)
        for name, choice in choices.items()
        if choice.candidate.plan
    }
    return Plan(system=recipe.system, variant=variant, target=recipe.target, stages=stages)


def _choose(
    recipe: ExportRecipe,
    name: str,
    graph: Path,
    reference: Reference,
    data: Sequence[Run],
    judge: Judge,
    given: Plan | None,
    steps: Steps,
) -> Choice:
    """Decide what a stage runs as, among FP32 ones, or take what a given plan says."""
    found = quantize.candidates(
        onnx.load(graph),
        [run.inputs for run in data],
        target=recipe.target,
        precision=recipe.precision,
        calibration=Calibration(
            observer=recipe.observer,
            threads=recipe.threads,
            memory_mib=recipe.calib_mem_mib,
            work=recipe.work and recipe.work / name,
            say=steps.say,
        ),
    )
    feeds = [run.inputs for run in reference.runs[name]]
    if given is not None:
        return _as_given(found, feeds, given.stages.get(name))
    if recipe.target != "cpu":
        return _untimed(found, feeds)

    def objection(candidate: Candidate) -> str:
        lost = judge({name: candidate.model}).lost
        return "" if lost <= recipe.max_iou_drop else f"loses {lost:.2f} gIoU points"

    precisions = {each.precision for each in found}
    return precision.choose(
        found,
        feeds,
        floor=LEAST_COSINE,
        threads=1,  # Timed by the thread's own processor time: steady on a busy machine.
        judge=objection,
        forced=recipe.forced if recipe.forced in precisions else None,
    )


def _untimed(found: Sequence[Candidate], feeds: Sequence[Mapping[str, np.ndarray]]) -> Choice:
    """Take the one form for a device that is not here; the masks judge it with all others."""
    trials = measure([_simulated(each) for each in found], feeds[:_FEW], threads=1, rounds=1)
    if len(trials) == 1:
        return Choice(candidate=found[0], reason="no node of it may be quantized", trials=())
    planned = sum(each.precision not in FLOATS for each in found[1].plan.values())
    reason = (
        f"{found[1].precision} was asked for; {planned} of {len(found[1].plan)} nodes at cosine "
        f"{trials[1].least_cosine:.5f}, simulated and not timed here"
    )
    return Choice(candidate=found[1], reason=reason, trials=())


def _as_given(
    found: Sequence[Candidate], feeds: Sequence[Mapping[str, np.ndarray]], stage: StagePlan | None
) -> Choice:
    """Take what a plan says of a stage; it may mix the forms of one target."""
    if stage is None or len(found) == 1:
        return Choice(candidate=found[0], reason="the plan leaves it in fp32", trials=())
    lower = found[1].lower
    assert lower is not None  # FP32 alone has none.
    taken = {each.precision for each in stage.nodes.values()} - set(FLOATS)
    name = " and ".join(sorted(taken)) or "fp32"
    candidate = replace(found[1], precision=name, plan=stage.nodes, model=lower(stage.nodes))
    return Choice(candidate=candidate, reason=f"{name} is what the plan says", trials=())


def _lifted(
    recipe: ExportRecipe,
    plain: Mapping[str, onnx.ModelProto],
    choices: Mapping[str, Choice],
    samples: Sequence[Sample],
    reference: Reference,
    judge: Judge,
    steps: Steps,
) -> dict[str, Choice]:
    """Lift blocks until the masks keep within the budget, all stages together."""
    journal = Journal(recipe.work and recipe.work / JOURNAL_FILE, data=samples_sha256(samples))
    subjects = [
        Subject(
            name,
            plain[name],
            choice.candidate.plan,
            _lower_to_run(choice.candidate),
            reference.runs[name],
            settings=f"{recipe.observer} {choice.candidate.precision}",
        )
        for name, choice in choices.items()
        if choice.candidate.plan
    ]
    lifted = lift(
        subjects,
        lambda: rank(subjects, judge, journal, threads=recipe.threads),
        judge,
        journal,
        budget=recipe.max_iou_drop,
    )
    for group in lifted.lifted:
        steps.say(f"lifted {group} to fp32")
    return {
        name: _replanned(choice, lifted.plans[name]) if name in lifted.plans else choice
        for name, choice in choices.items()
    }


def _replanned(choice: Choice, plan: Mapping[str, NodePlan]) -> Choice:
    candidate = choice.candidate
    if plan == candidate.plan or candidate.lower is None:
        return choice
    count = sum(each.precision != candidate.plan[name].precision for name, each in plan.items())
    return replace(
        choice,
        candidate=replace(candidate, plan=plan, model=candidate.lower(plan)),
        reason=f"{choice.reason}; {count} nodes were lifted to fp32",
    )


def _lower_to_run(candidate: Candidate) -> Lower:
    """Write plans as graphs that ONNX Runtime runs."""
    lower = candidate.lower
    assert lower is not None  # It has a plan.
    return lambda plan: runnable(lower(plan))


def _simulated(candidate: Candidate) -> Candidate:
    return replace(candidate, model=runnable(candidate.model))


def _runnable(choices: Mapping[str, Choice]) -> dict[str, onnx.ModelProto]:
    return {
        name: runnable(choice.candidate.model)
        for name, choice in choices.items()
        if choice.candidate.plan
    }


def _row(
    recipe: ExportRecipe, stage: str, plain: onnx.ModelProto, choice: Choice, runs: Sequence[Run]
) -> StageRow:
    """Measure what a stage came to beside FP32; a device that is not here is not timed."""
    fp32 = Candidate(precision="fp32", model=plain, plan={})
    feeds = [run.inputs for run in runs[:_FEW]]
    both = [fp32, _simulated(choice.candidate)] if choice.candidate.plan else [fp32]
    trials = measure(both, feeds, threads=1, rounds=_ROUNDS)
    row = stage_row(stage, trials[0], trials[-1], feeds[0])
    return row if recipe.target == "cpu" else replace(row, speedup=None, shares=())
