"""Which phrases a batch holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .cache import Phrases

TaskMix = Mapping[str, float]
"""Share of each task among the phrases; the shares add up to one."""


def draw_phrases(
    phrases: Phrases, rng: np.random.Generator, *, mix: TaskMix, count: int
) -> np.ndarray:
    """Draw phrases with replacement, a task first and then one of its phrases.

    Returns:
        int64 (count,) indices into the columns of `phrases`.
    """
    tasks = rng.choice(len(mix), size=count, p=list(mix.values()))
    names = list(mix)
    return np.array([rng.choice(phrases.rows[names[task]]) for task in tasks])
