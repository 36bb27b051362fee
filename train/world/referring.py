"""Phrases that point with a mask: "everything else of the same color as <mask-ref>"."""

from __future__ import annotations

import random
from collections.abc import Callable

from .catalogue import SIZES
from .expression import Expression, expression_about
from .phrases import ANYTHING, Description, bare, noun_slots, part_slots, related
from .relations import PHRASED
from .sight import Seen, Verdict, View, targets_of
from .templates import (
    GROUP_RELATION,
    OTHER,
    OTHER_ONE,
    PART,
    REFERENCE,
    RELATION,
    RELATION_WORDS,
    SAME,
    SAME_AS_EITHER,
    SIZE_COMPARED,
)
from .wording import Wording, say

_TRIES = 8
TRAIT_WORDS = {"color": ("color",), "category": ("kind", "class", "type"), "pattern": ("pattern",)}
"""Trait -> what it is called."""


def refer_by_trait(view: View, rng: random.Random) -> Expression | None:
    """Point at everything else that shares a trait with the reference."""
    ref = rng.choice(view.clear)
    trait = rng.choice(tuple(TRAIT_WORDS))
    if trait == "pattern" and ref.thing.pattern == "plain":
        return None
    slots = {"trait": rng.choice(TRAIT_WORDS[trait]), "ref": REFERENCE}
    found = view.matches(_alike(trait, (ref,)))
    return _said(view, rng, f"same {trait}", SAME, slots, found, (ref,))


def refer_by_two(view: View, rng: random.Random) -> Expression | None:
    """Point at everything else that shares a trait with one of two references."""
    if len(view.clear) < 2:
        return None
    refs = tuple(rng.sample(view.clear, 2))
    trait = rng.choice(("color", "category"))
    slots = {"trait": rng.choice(TRAIT_WORDS[trait]), "ref": REFERENCE}
    found = view.matches(_alike(trait, refs))
    return _said(view, rng, "two", SAME_AS_EITHER, slots, found, refs)


def refer_to_others(view: View, rng: random.Random) -> Expression | None:
    """Point at the rest of the reference's category: "the other mugs than <mask-ref>"."""
    ref = rng.choice(view.clear)
    head = bare(ref)
    found = view.matches(lambda one: one is not ref and head.fits(one))
    if not found:
        return None
    table = OTHER_ONE if len(found) == 1 else OTHER
    return _said(view, rng, "other", table, _slots(rng, head), found, (ref,))


def refer_by_relation(view: View, rng: random.Random) -> Expression | None:
    """Point at one or all objects by how they lie to the reference: "the mug on <mask-ref>"."""
    for _ in range(_TRIES):
        ref, relation, head = rng.choice(view.clear), rng.choice(PHRASED), ANYTHING
        if rng.random() < 0.5:
            head = bare(rng.choice(view.clear))
        if found := view.matches(related(view, head, relation, ref)):
            words = rng.choice(RELATION_WORDS[relation])
            slots = _slots(rng, head) | {"rel": words, "other": REFERENCE}
            slots["rel_of_all"] = words if head == ANYTHING else None
            table = RELATION if len(found) == 1 and rng.random() < 0.5 else GROUP_RELATION
            return _said(view, rng, "relation", table, slots, found, (ref,))
    return None


def refer_by_size(view: View, rng: random.Random) -> Expression | None:
    """Point at what is larger or smaller than the reference, among its like."""
    ref = rng.choice(view.clear)
    head = bare(ref)
    is_larger = rng.random() < 0.5

    def is_meant(one: Seen) -> Verdict:
        if one is ref or not head.fits(one) or one.thing.size == ref.thing.size:
            return False
        return (SIZES[one.thing.size] > SIZES[ref.thing.size]) == is_larger

    found = view.matches(is_meant)
    if not found:
        return None
    more = rng.choice(("bigger", "larger")) if is_larger else "smaller"
    slots = _slots(rng, head) | {"more": more}
    return _said(view, rng, "size", SIZE_COMPARED, slots, found, (ref,))


def refer_to_part(view: View, rng: random.Random) -> Expression | None:
    """Point at a part of the reference: "the handle of <mask-ref>"."""
    ref = rng.choice(view.clear)
    if not ref.parts:
        return None
    part = rng.choice(ref.parts)
    slots = part_slots(part, REFERENCE)
    return _said(view, rng, "part", PART, slots, (ref,), (ref,), part=part)


REFERRERS = {
    "trait": refer_by_trait,
    "two": refer_by_two,
    "other": refer_to_others,
    "relation": refer_by_relation,
    "size": refer_by_size,
    "part": refer_to_part,
}
"""Way of referring -> how to speak that way; each returns None where no object can be meant."""


def _alike(trait: str, refs: tuple[Seen, ...]) -> Callable[[Seen], Verdict]:
    wanted = {getattr(ref.thing, trait) for ref in refs}
    return lambda one: one not in refs and getattr(one.thing, trait) in wanted


def _slots(rng: random.Random, head: Description) -> dict[str, str | None]:
    return noun_slots(rng, head) | {"ref": REFERENCE}


def _said(
    view: View,
    rng: random.Random,
    kind: str,
    table: Wording,
    slots: dict[str, str | None],
    found: tuple[Seen, ...] | None,
    refs: tuple[Seen, ...],
    *,
    part: str | None = None,
) -> Expression | None:
    """Keep what nobody doubts; of the phrases that mean nothing here keep one in eight."""
    if found is None or (not found and rng.random() < 0.875):
        return None
    text = say(rng, table, view.split, slots)
    if text is None:
        return None
    return expression_about(
        view,
        task="reference",
        kind=kind,
        text=text,
        targets=targets_of(found, part),
        references=targets_of(refs),
    )
