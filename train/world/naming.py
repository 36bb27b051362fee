"""Ways to point at exactly one object in words: by category, attribute, relation or place."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from . import relations
from .phrases import (
    ANYTHING,
    Description,
    bare,
    described,
    noun_slots,
    only,
    related,
    unique_descriptions,
)
from .sight import Seen, View
from .templates import (
    ATTRIBUTE,
    BIGGEST,
    CARRIERS,
    CATEGORY,
    COUNTED,
    NEAREST,
    ORDINALS,
    RELATION,
    RELATION_WORDS,
    SIDEWAYS,
    SUPERLATIVES,
    UPDOWN,
)
from .wording import draw_kind, say

SINGLE_WEIGHTS = {"category": 20, "attribute": 45, "relation": 20, "absolute": 15}
"""How often each kind of naming one object is tried."""
_TRIES = 16
_BARE_SHARE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One object and a phrase that fits it alone."""

    kind: str
    """Key of `NAMERS`."""
    one: Seen
    """The object."""
    text: str
    """The phrase in the split's own wording."""
    definite: str
    """The phrase in its shortest form, "the ...", for use inside another phrase."""
    ends_in_noun: bool
    """True when `definite` takes a possessive: "the red mug's handle"."""


def name_by_category(view: View, rng: random.Random) -> Named | None:
    """Name an object that is the only one of its category: "the mug"."""
    for one in _shuffled(rng, view.clear):
        description = bare(one)
        if only(view, description):
            slots = noun_slots(rng, description)
            return _named("category", one, say(rng, CATEGORY, view.split, slots), slots["the"])
    return None


def name_by_attribute(view: View, rng: random.Random) -> Named | None:
    """Name an object by color, size or pattern: "the small red mug", "the blue thing"."""
    for one in _shuffled(rng, view.clear):
        choices = [d for d in unique_descriptions(view, one) if d != bare(one)]
        if choices:
            description = _choose(rng, choices)
            slots = noun_slots(rng, description)
            return _named("attribute", one, say(rng, ATTRIBUTE, view.split, slots), slots["the"])
    return None


def name_by_relation(view: View, rng: random.Random) -> Named | None:
    """Name an object by how it lies to another: "the mug left of the lamp"."""
    for attempt in range(_TRIES):
        one, other = (rng.choice(view.clear) for _ in range(2))
        head, anchor = _head(rng, one), shortest_name(view, rng, other)
        is_needed = not only(view, head) or attempt > _TRIES * 3 // 4
        if one is other or anchor is None or not is_needed:
            continue
        named = _nearest if rng.random() < 0.2 else _related
        if found := named(view, rng, one, head, other, anchor):
            return found
    return None


def name_by_place(view: View, rng: random.Random) -> Named | None:
    """Name an object by place or size among its like: "the leftmost car", "the biggest mug"."""
    for _ in range(_TRIES):
        head = _head(rng, rng.choice(view.clear))
        group = view.matches(head.fits)
        if group and len(group) > 1 and (found := _placed(view, rng, head, group)):
            return found
    return None


def shortest_name(
    view: View, rng: random.Random, one: Seen, *, says_category: bool = False
) -> str | None:
    """Return "the red mug" in as few words as fit this object alone, or None if none do.

    Args:
        view: The scene.
        rng: Source of the choice between names of one length.
        one: The object.
        says_category: True to leave out names such as "the red thing".
    """
    choices = [
        choice
        for choice in unique_descriptions(view, one)
        if choice.category is not None or not says_category
    ]
    if not choices:
        return None
    shortest = [choice for choice in choices if _words(choice) == _words(choices[0])]
    return noun_slots(rng, rng.choice(shortest))["the"]


NAMERS = {
    "category": name_by_category,
    "attribute": name_by_attribute,
    "relation": name_by_relation,
    "absolute": name_by_place,
}
"""Kind -> how to name one object that way; each returns None where the scene has no such object."""


def name_one(view: View, rng: random.Random) -> Named | None:
    """Name one object in a kind drawn by `SINGLE_WEIGHTS`; None where the scene has none such."""
    return NAMERS[draw_kind(rng, SINGLE_WEIGHTS)](view, rng)


def carried(view: View, rng: random.Random, text: str, definite: str) -> str:
    """Say a phrase bare, or wrap its shortest form into a request: "find the red mug"."""
    if rng.random() < _BARE_SHARE:
        return text
    return say(rng, CARRIERS, view.split, {"x": definite}) or text


def _named(
    kind: str, one: Seen, text: str | None, definite: str | None, *, ends_in_noun: bool = True
) -> Named | None:
    if text is None or definite is None:
        return None
    return Named(kind=kind, one=one, text=text, definite=definite, ends_in_noun=ends_in_noun)


def _shuffled(rng: random.Random, seen: Sequence[Seen]) -> list[Seen]:
    return rng.sample(seen, len(seen))


def _choose(rng: random.Random, choices: list[Description]) -> Description:
    """Prefer one of the shortest, now and then say more than is needed."""
    if rng.random() < 0.3:
        return rng.choice(choices)
    fewest = _words(choices[0])
    return rng.choice([choice for choice in choices if _words(choice) == fewest])


def _words(description: Description) -> int:
    traits = (description.color, description.size, description.pattern)
    return sum(trait is not None for trait in traits)


def _head(rng: random.Random, one: Seen) -> Description:
    """Pick what the noun of a longer phrase says of an object."""
    chance = rng.random()
    if chance < 0.5:
        return bare(one)
    if chance < 0.7:
        return described(one, ("color",), names_category=True)
    if chance < 0.85:
        return described(one, ("color",), names_category=False)
    return ANYTHING


def _related(
    view: View, rng: random.Random, one: Seen, head: Description, other: Seen, anchor: str
) -> Named | None:
    fitting = [r for r in relations.PHRASED if relations.holds(view, r, one, other)]
    if not fitting:
        return None
    relation = rng.choice(fitting)
    if view.matches(related(view, head, relation, other)) != (one,):
        return None
    slots = noun_slots(rng, head) | {"other": anchor, "rel": rng.choice(RELATION_WORDS[relation])}
    text = say(rng, RELATION, view.split, slots)
    definite = f"{slots['the']} {slots['rel']} {anchor}"
    return _named("relation", one, text, definite, ends_in_noun=False)


def _nearest(
    view: View, rng: random.Random, one: Seen, head: Description, other: Seen, anchor: str
) -> Named | None:
    group = view.matches(lambda candidate: candidate is not other and head.fits(candidate))
    if not group or relations.nearest(group, other) is not one:
        return None
    slots = noun_slots(rng, head)
    slots |= {"noun": slots["full"], "other": anchor}
    text = say(rng, NEAREST, view.split, slots)
    definite = f"{slots['the']} closest to {anchor}"
    return _named("relation", one, text, definite, ends_in_noun=False)


def _placed(
    view: View, rng: random.Random, head: Description, group: tuple[Seen, ...]
) -> Named | None:
    slots = noun_slots(rng, head)
    chance = rng.random()
    if head.category and chance < 0.35:
        return _by_size(view, rng, slots, group)
    side = rng.choice(("left", "right", "top", "bottom"))
    slots |= {"side": side, "high": {"top": "high", "bottom": "low"}.get(side)}
    if head.category and chance < 0.5 and len(group) > 2 and slots["high"] is None:
        return _by_rank(view, rng, slots, group, side)
    one = relations.extreme(group, side)
    if one is None:
        return None
    table = UPDOWN if slots["high"] else SIDEWAYS
    definite = f"the {side}most {slots['full']}"
    return _named("absolute", one, say(rng, table, view.split, slots), definite)


def _by_size(
    view: View, rng: random.Random, slots: dict[str, str | None], group: tuple[Seen, ...]
) -> Named | None:
    is_largest = rng.random() < 0.5
    one = relations.by_area(group, largest=is_largest)
    if one is None:
        return None
    slots |= {"most": rng.choice(SUPERLATIVES[is_largest])}
    definite = f"the {slots['most']} {slots['full']}"
    return _named("absolute", one, say(rng, BIGGEST, view.split, slots), definite)


def _by_rank(
    view: View, rng: random.Random, slots: dict[str, str | None], group: tuple[Seen, ...], side: str
) -> Named | None:
    ranked = relations.in_order(group, side)
    if not ranked:
        return None
    rank = rng.randrange(1, min(len(ranked), len(ORDINALS)))
    slots |= {"nth": ORDINALS[rank]}
    definite = f"the {slots['nth']} {slots['full']} from the {side}"
    text = say(rng, COUNTED, view.split, slots)
    return _named("absolute", ranked[rank], text, definite, ends_in_noun=False)
