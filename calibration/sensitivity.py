"""Which blocks of a network lose most in small numbers, measured on the masks.

Each block is made small alone, among FP32 ones, so only one stage has to run. The other way round,
everything small but one block, as NNCF's accuracy control ranks, what a block costs drowns in what
the others do: with 16 of 41 blocks of a harshly quantized EVF-SAM lifted in either order, masks of
other pictures than were ranked on were 4.0 points of IoU from FP32's and 7.1; none lifted, 10.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial

import numpy as np
import onnx

from .gate import Loss
from .journal import Journal
from .lowering import Lower
from .macs import multiply_adds
from .plan import FLOATS, NodePlan, blocks
from .plan_file import model_sha256
from .recording import Run
from .session import open_model

__all__ = ["Group", "JudgeModels", "Sensitivity", "Subject", "judge_plans", "lift_group", "rank"]

JudgeModels = Callable[[Mapping[str, onnx.ModelProto]], Loss]
"""Says what the masks lose with these graphs, by stage, among FP32 ones; see `gate.Judge`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The quantized nodes of one block; see `plan.blocks`."""

    stage: str
    """Name of the stage."""
    nodes: tuple[str, ...]
    """Names of the nodes, in the graph's order."""

    def __str__(self) -> str:
        """Name it by its first and last node."""
        return f"{self.stage} {' to '.join(dict.fromkeys((self.nodes[0], self.nodes[-1])))}"


class Subject:
    """One stage as a search sees it."""

    def __init__(
        self,
        name: str,
        model: onnx.ModelProto,
        plan: Mapping[str, NodePlan],
        lower: Lower,
        runs: Sequence[Run],
        *,
        settings: str,
    ) -> None:
        """Take what is known of a stage.

        Args:
            name: Name of the stage.
            model: FP32 graph that the plan is for.
            plan: What is wanted; a search only lifts nodes out of it.
            lower: Writes this plan, or one with fewer quantized nodes, as a graph.
            runs: What FP32 computed on real inputs.
            settings: Whatever else decides what `lower` writes, such as "percent 99.99".
        """
        self.name = name
        self.model = model
        self.plan = plan
        self.lower = lower
        self.runs = runs
        self.groups = tuple(_groups(name, model, plan))
        self._identity = [model_sha256(model), settings]

    @cached_property
    def multiply_adds(self) -> dict[str, int]:
        """Those of each node, for the first input; see `macs.multiply_adds`."""
        return multiply_adds(self.model, self.runs[0].inputs)

    def facts(self, plan: Mapping[str, NodePlan]) -> dict[str, object]:
        """Return what decides the graph that `lower` writes of a plan; nothing where it is FP32."""
        nodes = {name: each.precision for name, each in plan.items() if each.precision != "fp32"}
        return {self.name: [*self._identity, nodes]} if nodes else {}

    def alone(self, group: Group) -> dict[str, NodePlan]:
        """Return a plan with nothing quantized but one group."""
        return {
            name: each if name in group.nodes else replace(each, precision="fp32")
            for name, each in self.plan.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What one group costs when it alone is quantized."""

    group: Group
    """Which."""
    error: float
    """RMS difference of a stage's output from FP32's by the RMS of FP32's, the worst output's."""
    loss: Loss | None
    """What the masks lose; None where they were not asked."""
    apart: float
    """`loss.apart`, or what `error` lets expect: as much for its size as those of the stage that
    were asked."""


def rank(
    subjects: Sequence[Subject],
    judge: JudgeModels,
    journal: Journal,
    *,
    confirm: int = 8,
    runs: int = 3,
    threads: int = 1,
) -> tuple[Sensitivity, ...]:
    """Order all groups by what they cost, the most sensitive first.

    The outputs of the stage alone say roughly what a group costs, in one stage's time for a few
    inputs. Masks are asked about those with the largest errors.

    Args:
        subjects: The stages.
        judge: See `gate.Judge`.
        journal: Where figures are remembered.
        confirm: How many groups of each stage the masks are asked about.
        runs: How many inputs errors are taken over.
        threads: Threads of one operator while errors are taken.

    Raises:
        EngineError: ONNX Runtime refuses a graph.
    """
    found: list[Sensitivity] = []
    for subject in subjects:
        errors = _errors(subject, journal, runs, threads)
        found += _confirmed(subject, errors, judge, journal, confirm)
    return tuple(sorted(found, key=lambda each: each.apart, reverse=True))


def _errors(subject: Subject, journal: Journal, runs: int, threads: int) -> dict[Group, float]:
    """Measure each group's error, alone."""

    def measure(plan: Mapping[str, NodePlan]) -> dict[str, float]:
        return {"error": _error(subject.lower(plan), subject.runs[:runs], threads)}

    errors = {}
    for group in subject.groups:
        plan = subject.alone(group)
        facts = {**subject.facts(plan), "runs": runs}
        figures = journal.measured(f"error of {group} alone", facts, partial(measure, plan))
        errors[group] = figures["error"]
    return errors


def _confirmed(
    subject: Subject,
    errors: Mapping[Group, float],
    judge: JudgeModels,
    journal: Journal,
    confirm: int,
) -> list[Sensitivity]:
    """Ask the masks about the largest errors, and expect of the others what these cost."""
    ordered = sorted(errors, key=lambda group: errors[group], reverse=True)
    losses = {}
    for group in ordered[:confirm]:
        plans = {subject.name: subject.alone(group)}
        losses[group] = judge_plans(f"masks with {group} alone", [subject], plans, judge, journal)
    asked = sum(errors[group] for group in losses)
    apart_by_error = sum(loss.apart for loss in losses.values()) / asked if asked else 0.0
    return [
        Sensitivity(
            group=group,
            error=errors[group],
            loss=losses.get(group),
            apart=losses[group].apart if group in losses else apart_by_error * errors[group],
        )
        for group in ordered
    ]


def judge_plans(
    what: str,
    subjects: Sequence[Subject],
    plans: Mapping[str, Mapping[str, NodePlan]],
    judge: JudgeModels,
    journal: Journal,
) -> Loss:
    """Judge plans, or remember what came of it.

    Args:
        what: Says to a reader of the journal what is judged.
        subjects: The stages that may be quantized.
        plans: Stage name -> plan, for each of them.
        judge: See `gate.Judge`; is not given stages in FP32.
        journal: Where the loss is remembered.
    """
    facts = {
        name: each
        for subject in subjects
        for name, each in subject.facts(plans[subject.name]).items()
    }

    def measure() -> dict[str, float]:
        models = {s.name: s.lower(plans[s.name]) for s in subjects if s.name in facts}
        return asdict(judge(models))

    return Loss(**journal.measured(what, facts, measure))


def lift_group(
    plan: Mapping[str, NodePlan], group: Group, precision: str, reason: str
) -> dict[str, NodePlan]:
    """Return a plan in which a group computes in another precision for a reason."""
    return {
        **plan,
        **{name: NodePlan(precision=precision, reason=reason) for name in group.nodes},
    }


def _groups(stage: str, model: onnx.ModelProto, plan: Mapping[str, NodePlan]) -> Iterator[Group]:
    quantized = {name for name, each in plan.items() if each.precision not in FLOATS}
    for block in blocks(model):
        nodes = tuple(node.name for node in block if node.name in quantized)
        if nodes:
            yield Group(stage=stage, nodes=nodes)


def _error(model: onnx.ModelProto, runs: Sequence[Run], threads: int) -> float:
    """Return the relative RMS error of the worst output."""
    squares = {name: np.zeros(2) for name in runs[0].outputs}
    with closing(open_model(model, threads=threads)) as engine:
        for run in runs:
            outputs = engine.run(run.inputs)
            for name, sums in squares.items():
                expected = run.outputs[name].astype(np.float64)
                sums += np.square(outputs[name] - expected).sum(), np.square(expected).sum()
    return max(float(np.sqrt(missed / (whole or 1))) for missed, whole in squares.values())
