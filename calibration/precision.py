"""Which candidate a stage runs as: the quickest whose outputs are good enough.

Of several that are about as quick it is the one whose outputs are nearest FP32's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.errors import UnknownNameError
from ..runtime.spec import LatencyRow
from .hosts import ONNXRUNTIME, Host
from .plan import FLOATS
from .quantize import Candidate
from .trial import Trial, measure

__all__ = ["LEAST_GAIN", "Choice", "choose", "decide"]

LEAST_GAIN = 1.03
"""A difference in time counts if the slower takes this many times as long; INT8 must be so much
quicker than FP32, or it is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The candidate a stage runs as."""

    candidate: Candidate
    """What was taken."""
    reason: str
    """Why, in one sentence with the measured figures."""
    trials: tuple[Trial, ...]
    """All that were measured, FP32 first; empty where nothing was."""

    def latency(self, stage: str) -> tuple[LatencyRow, ...]:
        """Return a row of the bundle's report for every timed candidate of the stage `stage`."""
        return tuple(
            LatencyRow(
                stage=stage,
                precision=trial.candidate.precision,
                median_ms=trial.median_ms,
                is_taken=trial.candidate.precision == self.candidate.precision,
            )
            for trial in self.trials
            if not math.isnan(trial.median_ms)
        )

    @property
    def trial(self) -> Trial | None:
        """What was measured of `candidate`; None where its plan was changed since."""
        found = [each for each in self.trials if each.candidate.plan is self.candidate.plan]
        return found[0] if found else None


def choose(
    candidates: Sequence[Candidate],
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    floor: float,
    threads: int,
    rounds: int = 25,
    enough_s: float = 60,
    host: Host = ONNXRUNTIME,
    judge: Callable[[Candidate], str] | None = None,
    forced: str | None = None,
) -> Choice:
    """Measure candidates of one stage side by side and take the best.

    Args:
        candidates: From `quantize.candidates`; one of them is FP32.
        feeds: Real inputs by name, of the sizes that matter.
        floor: Least cosine of every output with FP32's, in [-1, 1].
        threads: Threads of one operator.
        rounds: How often every candidate is timed; see `trial.measure`.
        enough_s: After so many seconds no further round begins.
        host: What runs them; see `hosts.host_of`.
        judge: Says why a candidate must not be taken, for example by its mask IoU, or returns an
            empty string; asked last, the best candidate first.
        forced: Precision to take whatever the figures.

    Raises:
        UsageError: FP32 or feeds are missing, or `forced` is no candidate.
        EngineError: The host refuses a graph or a feed.
    """
    trials = measure(
        candidates, feeds, threads=threads, rounds=rounds, enough_s=enough_s, host=host
    )
    return decide(trials, floor=floor, judge=judge, forced=forced)


def decide(
    trials: Sequence[Trial],
    *,
    floor: float,
    judge: Callable[[Candidate], str] | None = None,
    forced: str | None = None,
) -> Choice:
    """Take the best of measured candidates; see `choose`."""
    found = {trial.candidate.precision: trial for trial in trials}
    if forced is not None:
        if forced not in found:
            raise UnknownNameError("a forced precision", forced, found)
        reason = f"{forced} was asked for; {_figures(found[forced], found['fp32'])}"
        return Choice(candidate=found[forced].candidate, reason=reason, trials=tuple(trials))
    fp32 = found.pop("fp32")
    taken, refused = fp32, [] if found else ["no node of it may become INT8"]
    for trial in _best_first(list(found.values())):
        objection = _objection(trial, fp32, floor, judge)
        if not objection:
            taken = trial
            break
        refused.append(f"{trial.candidate.precision} {objection}")
    reason = "; ".join([_figures(taken, fp32), *refused])
    return Choice(candidate=taken.candidate, reason=reason, trials=tuple(trials))


def _best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Order by time; those as quick as the quickest go first, by their cosine."""
    limit_ms = LEAST_GAIN * min((trial.median_ms for trial in trials), default=0.0)
    # NaN is no order.
    return sorted(
        trials,
        key=lambda trial: (
            (0, -np.nan_to_num(trial.least_cosine, nan=-1.0))
            if trial.median_ms <= limit_ms
            else (1, trial.median_ms)
        ),
    )


def _objection(
    trial: Trial, fp32: Trial, floor: float, judge: Callable[[Candidate], str] | None
) -> str:
    """Say why a candidate must not be taken; empty when it may."""
    if fp32.median_ms < LEAST_GAIN * trial.median_ms:
        gain = fp32.median_ms / trial.median_ms
        return f"was dropped: {trial.median_ms:.2f} ms is no gain ({gain:.2f}x)"
    if not trial.least_cosine >= floor:
        return f"was refused: cosine {trial.least_cosine:.5f} is below {floor:g}"
    objection = judge(trial.candidate) if judge else ""
    return objection and f"was refused: {objection}"


def _figures(trial: Trial, fp32: Trial) -> str:
    if trial is fp32:
        return f"fp32 takes {fp32.median_ms:.2f} ms"
    planned = sum(each.precision not in FLOATS for each in trial.candidate.plan.values())
    return (
        f"{trial.candidate.precision} takes {trial.median_ms:.2f} ms where fp32 takes "
        f"{fp32.median_ms:.2f} ms ({fp32.median_ms / trial.median_ms:.2f}x) at cosine "
        f"{trial.least_cosine:.5f}, with {trial.integer_kernels} of {planned} nodes in integers"
    )
