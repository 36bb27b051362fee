"""The accuracy gate: the masks of quantized stages beside FP32's and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..runtime.engine import Engine
from ..runtime.prompt import prompts_from
from ..runtime.systems import System
from .samples import Sample
from .score import Score, score_tasks

__all__ = ["OVERALL", "points_lost", "score_samples", "with_stages"]

OVERALL = "all"
"""Task name under which all phrases are scored together."""


def score_samples(
    system: System, samples: Sequence[Sample], reference: Sequence[np.ndarray] | None = None
) -> tuple[dict[str, Score], list[np.ndarray]]:
    """Segment samples and score the masks.

    Args:
        system: What segments them.
        samples: Frames with phrases.
        reference: Masks to compare with where a sample has no truth; without them its own masks
            count as right, as FP32's do.

    Returns:
        Task -> score, with `OVERALL`, and the masks (phrases, H, W) bool of each sample.
    """
    found = [system.segment(each.frame, prompts_from(list(each.texts))).boolean for each in samples]
    wanted = reference or found
    truths = [
        known if sample.masks is None else sample.masks
        for sample, known in zip(samples, wanted, strict=True)
    ]
    triples = [
        (task, mask, truth)
        for sample, masks, known in zip(samples, found, truths, strict=True)
        for task, mask, truth in zip(sample.tasks, masks, known, strict=True)
    ]
    scores = score_tasks(triples)
    return scores | {OVERALL: sum(scores.values(), Score())}, found


def points_lost(fp32: Mapping[str, Score], other: Mapping[str, Score]) -> float:
    """Return how many points of gIoU (0 to 100) all phrases together lose against FP32."""
    return 100 * (fp32[OVERALL].giou - other[OVERALL].giou)


def with_stages(system: System, engines: Mapping[str, Engine]) -> System:
    """Return `system` with some of its stages computed by other engines."""
    return system.with_engines(lambda engine: engines.get(engine.stage.name, engine))
