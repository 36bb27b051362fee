"""Everything that is said of the world, scene after scene: what a vocabulary is learned from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

from .compose import compose
from .dialogue import converse
from .draw import draw
from .expression import TASKS
from .speak import express

_SIZE_HW = (96, 96)
_ROUNDS = 5


def vocabulary_corpus(*, split: str = "train", texts: int, seed: int = 0) -> Iterator[str]:
    """Yield what is said and answered about many scenes, all tasks alike.

    Args:
        split: "train", "val" or "test".
        texts: How many texts.
        seed: Seed of the first scene; the next scenes count up from it.

    Returns:
        Single lines as the user or the answer has them, "{seg}" and `<mask-ref>` included.
    """
    return islice(_endless(split, seed), texts)


def _endless(split: str, first_seed: int) -> Iterator[str]:
    tasks = tuple(task for task in TASKS if task != "dialogue")
    for seed in count(first_seed):
        drawing = draw(compose(seed, split), _SIZE_HW)
        said = list(express(drawing, seed=seed, tasks=tasks))
        said += [turn.expression for turn in converse(drawing, seed=seed, rounds=_ROUNDS).turns]
        for expression in said:
            yield expression.text
            if expression.answer:
                yield expression.answer
