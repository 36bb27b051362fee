"""What the gate found: quality, time, size, and what is really computed in which precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.engine_cache import Share
from .gate import OVERALL, Loss
from .hosts import ONNXRUNTIME, Host
from .macs import multiply_adds
from .score import Score
from .trial import Trial
from .turns import weight_bytes

__all__ = ["GateReport", "StageRow", "TaskRow", "gate_report", "stage_row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage beside its FP32 form."""

    stage: str
    """Name of the stage."""
    precision: str
    """What it runs as, such as "int8-static"."""
    cosine: float
    """Of the output that differs most from FP32's."""
    speedup: float | None
    """FP32's time by this one's, timed side by side; None for a device that is not here."""
    size_ratio: float
    """Bytes of its constants by FP32's."""
    shares: tuple[Share, ...]
    """In INT8 and in FP32; of a device that is not here `saymask info` tells them once its engines
    are built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One task's masks against the truth, all stages together."""

    task: str
    """Name of the task, or `gate.OVERALL`."""
    phrases: int
    """How many were scored."""
    fp32: float
    """FP32's gIoU, in [0, 1]."""
    this: float
    """That of the quantized stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """All that the gate found."""

    budget: float
    """Most points of gIoU that could be lost."""
    loss: Loss
    """What is lost."""
    stages: tuple[StageRow, ...]
    """In the order they run."""
    tasks: tuple[TaskRow, ...]
    """In alphabetical order, `gate.OVERALL` last."""


def gate_report(
    stages: Mapping[str, StageRow],
    fp32: Mapping[str, Score],
    scores: Mapping[str, Score],
    loss: Loss,
    *,
    budget: float,
) -> GateReport:
    """Gather what was measured.

    Args:
        stages: Rows by name of the stage, from `stage_row`.
        fp32: FP32's scores by task, from `gate.score_samples`.
        scores: Those of the quantized stages.
        loss: From `gate.Judge`, all stages together.
        budget: Most points of gIoU that may be lost.
    """
    tasks = (*sorted(set(scores) - {OVERALL}), OVERALL)
    return GateReport(
        budget=budget,
        loss=loss,
        stages=tuple(stages.values()),
        tasks=tuple(
            TaskRow(
                task=task,
                phrases=scores[task].samples,
                fp32=fp32[task].giou,
                this=scores[task].giou,
            )
            for task in tasks
        ),
    )


def stage_row(
    stage: str,
    fp32: Trial,
    taken: Trial,
    feed: Mapping[str, np.ndarray] | None,
    host: Host = ONNXRUNTIME,
) -> StageRow:
    """Describe a stage as it is executed here.

    Args:
        stage: Name of the stage.
        fp32: Trial of its FP32 form.
        taken: Trial of what was taken, measured beside it.
        feed: Real inputs by name; None for a device that is not here, of which neither times nor
            kernels are known.
        host: What ran the trials.

    Raises:
        EngineError: The host refuses a graph or the feed.
    """
    return StageRow(
        stage=stage,
        precision=taken.candidate.precision,
        cosine=taken.least_cosine,
        speedup=None if feed is None else fp32.median_ms / taken.median_ms,
        size_ratio=weight_bytes(taken.candidate.model) / (weight_bytes(fp32.candidate.model) or 1),
        shares=() if feed is None else _shares(fp32, taken, feed, host),
    )


def _shares(
    fp32: Trial, taken: Trial, feed: Mapping[str, np.ndarray], host: Host
) -> tuple[Share, ...]:
    """Return the shares of the multiply-adds that are computed in integers and not."""
    counts = multiply_adds(fp32.candidate.model, feed)
    integers = host.integer_nodes(taken.candidate.model, feed, counts)
    whole = sum(counts.values())
    shares = []
    for precision, names in (("int8", integers), ("fp32", counts.keys() - integers)):
        part = sum(counts[name] for name in names)
        shares.append(
            Share(
                precision=precision,
                nodes=len(names),
                multiply_adds=part,
                share=part / whole if whole else 0.0,
            )
        )
    return tuple(shares)
