"""Lift the blocks that lose most out of small numbers, until the masks keep within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..runtime.errors import GateError
from .gate import Loss
from .journal import Journal
from .plan import NodePlan
from .sensitivity import Group, JudgeModels, Sensitivity, Subject, judge_plans, lift_group

__all__ = ["Attempt", "Lifted", "lift"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One set of lifted groups and what became of the masks."""

    lifted: tuple[Group, ...]
    """What was lifted; the rest was quantized."""
    loss: Loss
    """What the masks lost."""
    holds: bool
    """Whether that is within the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """What lifting came to."""

    plans: Mapping[str, Mapping[str, NodePlan]]
    """Stage name -> node name -> plan, with the reason of each lifted node."""
    lifted: tuple[Group, ...]
    """The lifted groups, the most sensitive first."""
    loss: Loss
    """What the masks lose with these plans."""
    attempts: tuple[Attempt, ...]
    """What was tried, in order; the first has nothing lifted."""


def lift(
    subjects: Sequence[Subject],
    ranking: Callable[[], Sequence[Sensitivity]],
    judge: JudgeModels,
    journal: Journal,
    *,
    budget: float,
    precision: str = "fp32",
    most_returns: int = 8,
) -> Lifted:
    """Lift as few groups as hold the budget, in the order of a ranking.

    The number is doubled until it holds and then bisected: two attempts for each doubling of what
    it comes to. Bisection takes the loss to fall with every group, which masks do not promise, so
    what is returned is always something that was judged. At last lifted groups are returned to
    small numbers one by one, those of most multiply-adds first, where the budget holds without
    them.

    Args:
        subjects: The stages.
        ranking: Returns their groups, the most sensitive first, see `sensitivity.rank`; is asked
            only where the budget is missed with nothing lifted.
        judge: See `gate.Judge`.
        journal: Where attempts are remembered.
        budget: Most points of gIoU, 0 to 100, that all stages together may lose.
        precision: What lifted nodes compute in: "fp32", or "fp16" on a GPU.
        most_returns: Most groups to try to return.

    Raises:
        GateError: The budget is not a number, or is missed with every group lifted.
    """
    search = _Search(subjects, judge, journal, budget, precision)
    if search.holds([]):
        return search.result([])
    ordered = ranking()
    low, high = 0, min(1, len(ordered))
    while not search.holds(ordered[:high]):
        if high == len(ordered):
            raise GateError(search.failure(ordered))
        low, high = high, min(2 * high, len(ordered))
    while high - low > 1:
        middle = (low + high) // 2
        if search.holds(ordered[:middle]):
            high = middle
        else:
            low = middle
    taken = list(ordered[:high])
    sizes = {each.group: _multiply_adds(each.group, subjects) for each in taken}
    # Without the last one the budget was missed.
    largest = sorted(taken[:-1], key=lambda each: sizes[each.group], reverse=True)
    for each in largest[:most_returns]:
        fewer = [other for other in taken if other is not each]
        if search.holds(fewer):
            taken = fewer
    return search.result(taken)


def _multiply_adds(group: Group, subjects: Sequence[Subject]) -> int:
    [counts] = [subject.multiply_adds for subject in subjects if subject.name == group.stage]
    return sum(counts[name] for name in group.nodes)


class _Search:
    """Attempts at one budget."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        judge: JudgeModels,
        journal: Journal,
        budget: float,
        precision: str,
    ) -> None:
        self._subjects, self._judge, self._journal = subjects, judge, journal
        self._budget, self._precision = budget, precision
        self._attempts: list[Attempt] = []

    def holds(self, taken: Sequence[Sensitivity]) -> bool:
        """Judge the stages with some groups lifted."""
        groups = tuple(each.group for each in taken)
        what = f"masks with {len(groups)} groups lifted"
        plans = self._plans(taken)
        loss = judge_plans(what, self._subjects, plans, self._judge, self._journal)
        is_within = loss.lost <= self._budget
        self._attempts.append(Attempt(lifted=groups, loss=loss, holds=is_within))
        if math.isnan(self._budget):
            raise GateError(
                f"the budget must be a number of gIoU points; got {self._budget}; with nothing "
                f"lifted the masks lose {loss.lost:.2f}; say how many with --max-iou-drop"
            )
        return is_within

    def result(self, taken: Sequence[Sensitivity]) -> Lifted:
        """Return what was judged with exactly these groups lifted."""
        groups = tuple(each.group for each in taken)
        loss = next(each.loss for each in self._attempts if each.lifted == groups)
        return Lifted(
            plans=self._plans(taken), lifted=groups, loss=loss, attempts=tuple(self._attempts)
        )

    def failure(self, ranking: Sequence[Sensitivity]) -> str:
        """Say what was asked and what came of every attempt."""
        tried = ", ".join(
            f"{each.loss.lost:.2f} with {len(each.lifted)}" for each in self._attempts
        )
        names = ", ".join(f"{each.group} ({_cost(each)})" for each in ranking[:3]) or "none"
        return (
            f"the masks must lose at most {self._budget:g} gIoU points against FP32; they lose "
            f"{tried} of {len(ranking)} groups of nodes lifted to {self._precision}; the "
            f"most sensitive are {names}; allow more with --max-iou-drop or give more --samples"
        )

    def _plans(self, taken: Sequence[Sensitivity]) -> dict[str, Mapping[str, NodePlan]]:
        plans = {subject.name: subject.plan for subject in self._subjects}
        for each in taken:
            reason = f"lifted: {_cost(each)}"
            stage = each.group.stage
            plans[stage] = lift_group(plans[stage], each.group, self._precision, reason)
        return plans


def _cost(sensitivity: Sensitivity) -> str:
    about = "" if sensitivity.loss else "about "
    return f"alone it moves the masks {about}{sensitivity.apart:.2f} points of IoU from FP32's"
