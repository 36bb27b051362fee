"""The stages of a system in small numbers: each chosen, all judged by their masks, and lifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from ..calibration import precision, quantize
from ..calibration.gate import Judge, Loss, samples_sha256, with_runs
from ..calibration.gate_report import GateReport, StageRow, gate_report, stage_row
from ..calibration.hosts import host_of
from ..calibration.journal import Journal
from ..calibration.lifting import lift
from ..calibration.lowering import Lower
from ..calibration.plan import FLOATS, NodePlan
from ..calibration.plan_file import Plan, StagePlan, check_plan, model_sha256, read_plan
from ..calibration.precision import Choice
from ..calibration.qdq import runnable
from ..calibration.quantize import Calibration, Candidate
from ..calibration.recording import Run, output_folders
from ..calibration.samples import Sample
from ..calibration.score import Score
from ..calibration.sensitivity import Subject, rank
from ..calibration.storage import read, spill
from ..calibration.trial import measure
from ..runtime.engine import Engine, open_graph
from ..runtime.engine_cache import TARGETS
from ..runtime.errors import GateError
from ..runtime.spec import StageSpec
from ..runtime.systems import System
from .quantizers import quantizer
from .recipe import ExportRecipe
from .steps import Steps

__all__ = ["FEW", "JOURNAL_FILE", "Quantized", "Reference", "judge_of", "quantize_stages"]

JOURNAL_FILE = "search.jsonl"
"""In the work folder: what a search has measured."""
FEW = 3
"""Inputs of a stage that cosines are taken over."""
_ROUNDS = 5
_ENOUGH_S = 30
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
    folder: Path,
    steps: Steps,
) -> Quantized:
    """Choose a form for each stage, and lift what costs the masks more than may be lost.

    Args:
        recipe: Its precision is not "fp32", and `wishes.check_wishes` has seen it.
        variant: Size of the networks.
        graphs: Stage name -> FP32 graph.
        system: In FP32; its engines are closed, as graphs and engines are opened one by one.
        samples: What the masks are judged on.
        reference: What `system` made of them.
        data: Stage name -> runs that ranges are taken from; outputs to come are left on the way.
        folder: Takes weights, so that few are in memory; what is returned lives on it.
        steps: Are told what happens.

    Raises:
        GateError: The masks lose more than the recipe allows, whatever is lifted.
        InputError: The recipe's plan is not one for these graphs.
        SaymaskError: See `calibration.quantize.candidates`.
    """
    judge = judge_of(recipe, graphs, system, samples, reference)
    plain = {
        name: spill(quantize.plannable(read(graph)), folder / f"{name}.plain.onnx")
        for name, graph in graphs.items()
    }
    given = _given(recipe, plain)
    choices = {}
    for name, graph in graphs.items():
        runs = data[name]
        with steps.step(f"quantize {name}"):
            choices[name] = _choose(
                recipe, name, graph, reference, runs, judge, given, folder / name, steps
            )
        steps.say(f"chose {name}: {choices[name].reason}")
    with steps.step("judge"):
        choices = _lifted(recipe, plain, choices, samples, reference, judge, folder, steps)
        found = judge.scored(_runnable(choices, folder))
        _hold(recipe, found.loss)
    with steps.step("report"):
        rows = {
            name: _row(recipe, name, plain[name], choice, reference.runs[name], folder)
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


def _hold(recipe: ExportRecipe, loss: Loss) -> None:
    """Refuse what misses the budget after all: a search remembers, and may remember wrongly."""
    if not loss.lost <= recipe.max_iou_drop:
        retry = f"delete {recipe.work / JOURNAL_FILE}, start again or " if recipe.work else ""
        raise GateError(
            f"the masks must lose at most {recipe.max_iou_drop:g} gIoU points against FP32; judged "
            f"again after the search they lose {loss.lost:.2f}; {retry}allow more with "
            "--max-iou-drop"
        )


def judge_of(
    recipe: ExportRecipe,
    graphs: Mapping[str, Path],
    system: System,
    samples: Sequence[Sample],
    reference: Reference,
) -> Judge:
    """Return what looks at the masks; FP32 engines are closed until they are needed.

    Args:
        recipe: Says the target, and how many threads run its graphs.
        graphs: Stage name -> FP32 graph.
        system: What made `reference` of `samples`.
        samples: What is segmented.
        reference: FP32's runs, scores and masks.
    """
    host = host_of(recipe.target)

    def reopen(stage: StageSpec) -> Engine:
        graph = graphs[stage.name]
        return open_graph(graph, stage, backend=host.backend, device="cpu", threads=recipe.threads)

    return Judge(
        system=with_runs(system, reference.runs, reopen),
        samples=samples,
        scores=reference.scores,
        masks=reference.masks,
        threads=recipe.threads,
        host=host,
    )


def _given(recipe: ExportRecipe, plain: Mapping[str, onnx.ModelProto]) -> Plan | None:
    """Read the plan that the user gives back; None where none is given."""
    if recipe.plan is None:
        return None
    plan = read_plan(recipe.plan)
    check_plan(plan, plain)
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
    folder: Path,
    steps: Steps,
) -> Choice:
    """Decide what a stage runs as, among FP32 ones, or take what a given plan says."""
    folder.mkdir()
    stage = given and given.stages.get(name)
    if given is not None and stage is None:
        return _in_fp32(read(graph))
    found = quantizer(recipe)(
        read(graph),
        [run.inputs for run in data],
        calibration=Calibration(
            observer=recipe.observer,
            transforms=recipe.transforms,
            threads=recipe.threads,
            memory_mib=recipe.calib_mem_mib,
            weight_bits=recipe.weight_bits,
            outputs=output_folders(data),
            work=recipe.work and recipe.work / name,
            folder=folder,
            say=steps.say,
        ),
        **({} if stage is None else {"given": stage.nodes}),
    )
    if stage is not None:
        return _as_given(found, stage)
    feeds = [run.inputs for run in reference.runs[name]]
    if recipe.target in TARGETS:
        return _untimed(recipe, found, feeds, folder)

    def objection(candidate: Candidate) -> str:
        lost = judge({name: candidate.model}).lost
        return "" if lost <= recipe.max_iou_drop else f"loses {lost:.2f} gIoU points"

    precisions = {each.precision for each in found}
    return precision.choose(
        found,
        feeds,
        floor=LEAST_COSINE,
        threads=1,  # Timed by the thread's own processor time: steady on a busy machine.
        host=host_of(recipe.target),
        judge=objection,
        forced=recipe.forced if recipe.forced in precisions else None,
    )


def _untimed(
    recipe: ExportRecipe,
    found: Sequence[Candidate],
    feeds: Sequence[Mapping[str, np.ndarray]],
    folder: Path,
) -> Choice:
    """Take the one form for a device that is not here; the masks judge it with all others."""
    if len(found) == 1:
        return Choice(candidate=found[0], reason="no node of it may be quantized", trials=())
    both = [found[0], _simulated(found[1], folder)]
    trials = measure(both, feeds[:FEW], threads=1, rounds=0)
    planned = sum(each.precision not in FLOATS for each in found[1].plan.values())
    reason = (
        f"{found[1].precision} was asked for; {recipe.quantizer} rounds {planned} of "
        f"{len(found[1].plan)} nodes at cosine {trials[1].least_cosine:.5f}, simulated and not "
        "timed here"
    )
    return Choice(candidate=found[1], reason=reason, trials=trials)


def _as_given(found: Sequence[Candidate], stage: StagePlan) -> Choice:
    """Take what was made of a plan, which may mix the forms of one target."""
    if len(found) == 1:
        return _in_fp32(found[0].model)
    name = " and ".join(sorted({each.precision for each in stage.nodes.values()} - set(FLOATS)))
    candidate = replace(found[1], precision=name)
    return Choice(candidate=candidate, reason=f"{name} is what the plan says", trials=())


def _in_fp32(model: onnx.ModelProto) -> Choice:
    candidate = Candidate(precision="fp32", model=model, plan={})
    return Choice(candidate=candidate, reason="the plan leaves it in fp32", trials=())


def _lifted(
    recipe: ExportRecipe,
    plain: Mapping[str, onnx.ModelProto],
    choices: Mapping[str, Choice],
    samples: Sequence[Sample],
    reference: Reference,
    judge: Judge,
    folder: Path,
    steps: Steps,
) -> dict[str, Choice]:
    """Lift blocks until the masks keep within the budget, all stages together."""
    journal = Journal(recipe.work and recipe.work / JOURNAL_FILE, data=samples_sha256(samples))
    subjects = [
        Subject(
            name,
            plain[name],
            choice.candidate.plan,
            _lower_to_run(choice.candidate, folder / f"{name}.judged.onnx"),
            reference.runs[name],
            # What is written knows the data that ranges are of, which the journal does not.
            settings=f"{recipe.quantizer} {recipe.observer} {','.join(recipe.transforms)} "
            f"{choice.candidate.precision} {model_sha256(choice.candidate.model)}",
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


def _lower_to_run(candidate: Candidate, path: Path) -> Lower:
    """Write plans as graphs that ONNX Runtime runs, the latest at `path`."""
    lower = candidate.lower
    assert lower is not None  # It has a plan.
    return lambda plan: spill(runnable(lower(plan)), path)


def _simulated(candidate: Candidate, folder: Path) -> Candidate:
    model = spill(runnable(candidate.model), folder / "simulated.onnx")
    return replace(candidate, model=model)


def _runnable(choices: Mapping[str, Choice], folder: Path) -> dict[str, onnx.ModelProto]:
    return {
        name: spill(runnable(choice.candidate.model), folder / f"{name}.judged.onnx")
        for name, choice in choices.items()
        if choice.candidate.plan
    }


def _row(
    recipe: ExportRecipe,
    stage: str,
    plain: onnx.ModelProto,
    choice: Choice,
    runs: Sequence[Run],
    folder: Path,
) -> StageRow:
    """Say what a stage came to beside FP32; a device that is not here is not timed."""
    feeds = [run.inputs for run in runs[:FEW]]
    host, is_here = host_of(recipe.target), recipe.target not in TARGETS
    fp32, taken = choice.trials[0] if choice.trials else None, choice.trial
    if fp32 is None or taken is None:
        whole = Candidate(precision="fp32", model=plain, plan={})
        both = [whole, _simulated(choice.candidate, folder)] if choice.candidate.plan else [whole]
        rounds = _ROUNDS if is_here else 0
        trials = measure(both, feeds, threads=1, rounds=rounds, enough_s=_ENOUGH_S, host=host)
        fp32, taken = trials[0], trials[-1]
    # What was measured of a simulated graph is said of the one that it simulates.
    taken = replace(taken, candidate=choice.candidate)
    return stage_row(stage, fp32, taken, feeds[0] if is_here else None, host)
