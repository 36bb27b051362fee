"""Sentence patterns with named slots, one disjoint set for each split."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from string import Formatter


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The patterns of one kind of phrase; a pattern listed twice comes twice as often."""

    train: tuple[str, ...]
    """Patterns that training hears."""
    val: tuple[str, ...]
    """Patterns of the validation split; none occurs in another split."""
    test: tuple[str, ...]
    """Patterns of the test split, paraphrases made of words that training hears too."""

    def of(self, split: str) -> tuple[str, ...]:
        """Return the patterns of one split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


def wording(*, train: str, val: str, test: str) -> Wording:
    """Read a table whose patterns are separated by "|"."""
    return Wording(train=_patterns(train), val=_patterns(val), test=_patterns(test))


def say(
    rng: random.Random, table: Wording, split: str, slots: Mapping[str, str | None]
) -> str | None:
    """Fill a random pattern of a split.

    Args:
        rng: Source of the choice.
        table: The patterns.
        split: "train", "val" or "test".
        slots: Slot name -> words; None where this phrase has nothing to say.

    Returns:
        The phrase, or None when every pattern needs a slot that has no words.
    """
    fits = [one for one in table.of(split) if all(slots.get(slot) for slot in _slots_of(one))]
    return rng.choice(fits).format_map(slots) if fits else None


def draw_kind(rng: random.Random, weights: Mapping[str, int]) -> str:
    """Draw a key as often as its weight says."""
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(" ".join(pattern.split()) for pattern in text.split("|"))


@cache
def _slots_of(pattern: str) -> tuple[str, ...]:
    return tuple(slot for _, slot, _, _ in Formatter().parse(pattern) if slot)
