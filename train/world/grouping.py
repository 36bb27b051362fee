"""Ways to point at none, one or several objects in words: all, the two, these and that, all but."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .catalogue import CATEGORIES, COLORS, HELD_OUT_PAIRS
from .naming import name_by_attribute, name_by_category, name_by_place, shortest_name
from .phrases import ANYTHING, Description, bare, described, noun_slots, related, says_size
from .sight import Seen, View
from .templates import (
    ATTRIBUTE,
    CATEGORY,
    COUNT,
    EXCEPT,
    GROUP,
    GROUP_RELATION,
    NUMBERS,
    RELATION,
    RELATION_WORDS,
    UNION,
)
from .wording import say

_TRIES = 8
_SIDES = ("left", "right", "above", "below")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Objects, perhaps none, and a phrase that fits exactly these."""

    kind: str
    """Key of `GROUPERS`."""
    seen: tuple[Seen, ...]
    """The objects, in drawing order or as the phrase lists them."""
    text: str
    """The phrase."""


def group_by_category(view: View, rng: random.Random) -> Group | None:
    """Speak of everything of one category: "all mugs"."""
    head = bare(rng.choice(view.clear))
    return _all(view, rng, "category", head)


def group_by_attribute(view: View, rng: random.Random) -> Group | None:
    """Speak of everything that shares a trait: "everything red", "all striped mugs"."""
    return _all(view, rng, "attribute", _shared_trait(view, rng))


def group_by_count(view: View, rng: random.Random) -> Group | None:
    """Speak of a group by its number: "the two mugs"."""
    head = _shared_trait(view, rng)
    if rng.random() < 0.5:
        head = bare(rng.choice(view.clear))
    found = view.matches(head.fits)
    if not found or len(found) < 2:
        return None
    slots = noun_slots(rng, head)
    slots |= {
        "number": NUMBERS[len(found)],
        "pair": slots["plural"] if len(found) == 2 else None,
    }
    return _group("count", found, say(rng, COUNT, view.split, slots))


def group_by_union(view: View, rng: random.Random) -> Group | None:
    """Speak of two groups at once: "all mugs and the blue box"."""
    first = _member(view, rng)
    second = _member(view, rng)
    if first is None or second is None or set(_indices(first)) & set(_indices(second)):
        return None
    slots = {
        "x": first.text,
        "y": second.text,
        "one_x": first.text if len(first.seen) == 1 else None,
    }
    return _group("union", first.seen + second.seen, say(rng, UNION, view.split, slots))


def group_by_exception(view: View, rng: random.Random) -> Group | None:
    """Speak of a group without one of its members: "all mugs except the red mug"."""
    head = _shared_trait(view, rng)
    if rng.random() < 0.6:
        head = bare(rng.choice(view.clear))
    found = view.matches(head.fits)
    if not found or len(found) < 2:
        return None
    left_out = rng.choice(found)
    name = shortest_name(view, rng, left_out)
    if name is None:
        return None
    slots = noun_slots(rng, head) | {"x": name}
    rest = tuple(one for one in found if one is not left_out)
    return _group("except", rest, say(rng, EXCEPT, view.split, slots))


def group_by_relation(view: View, rng: random.Random) -> Group | None:
    """Speak of everything on one side of an object: "all objects left of the lamp"."""
    for _ in range(_TRIES):
        other, relation = rng.choice(view.clear), rng.choice(_SIDES)
        head, name = _relation_head(view, rng), shortest_name(view, rng, other)
        found = view.matches(related(view, head, relation, other))
        if found and name:
            words = rng.choice(RELATION_WORDS[relation])
            slots = noun_slots(rng, head) | {"rel": words, "other": name}
            slots["rel_of_all"] = words if head == ANYTHING else None
            return _group("relation", found, say(rng, GROUP_RELATION, view.split, slots))
    return None


def group_of_one(view: View, rng: random.Random) -> Group | None:
    """Speak of a single object, as in single phrases."""
    naming = rng.choice((name_by_category, name_by_attribute, name_by_place))
    named = naming(view, rng)
    return Group(kind="one", seen=(named.one,), text=named.text) if named else None


def group_of_none(view: View, rng: random.Random) -> Group | None:
    """Speak of something likely that is not there: "the green lamp" among red ones."""
    if rng.random() < 0.3:
        return _related_to_none(view, rng)
    head = absent_description(view, rng)
    if view.matches(head.fits) != ():
        return None
    table = rng.choice((GROUP, ATTRIBUTE if head.color else CATEGORY))
    return _group("none", (), say(rng, table, view.split, noun_slots(rng, head)))


def absent_description(view: View, rng: random.Random) -> Description:
    """Describe a category that is not there, or one that is, in a color that it may not have."""
    here = {one.thing.category for one in view.seen}
    if rng.random() < 0.35:
        category, color = rng.choice(sorted(set(CATEGORIES) - here)), None
    else:
        category = rng.choice(sorted(here))
        color = rng.choice([c for c in COLORS if _may_be_said(view, c, category)])
    return Description(category=category, color=color, size=None, pattern=None)


GROUPERS = {
    "category": group_by_category,
    "attribute": group_by_attribute,
    "count": group_by_count,
    "union": group_by_union,
    "except": group_by_exception,
    "relation": group_by_relation,
    "one": group_of_one,
    "none": group_of_none,
}
"""Kind -> how to speak of a group that way; each returns None where the scene has no such group."""


def _group(kind: str, seen: tuple[Seen, ...], text: str | None) -> Group | None:
    return None if text is None else Group(kind=kind, seen=seen, text=text)


def _indices(group: Group) -> tuple[int, ...]:
    return tuple(one.index for one in group.seen)


def _all(view: View, rng: random.Random, kind: str, head: Description) -> Group | None:
    found = view.matches(head.fits)
    if not found or (len(found) < 2 and rng.random() < 0.6):
        return None
    return _group(kind, found, say(rng, GROUP, view.split, noun_slots(rng, head)))


def _shared_trait(view: View, rng: random.Random) -> Description:
    """Describe an object by a trait that its like may share."""
    one = rng.choice(view.clear)
    chance = rng.random()
    if chance < 0.5:
        return described(one, ("color",), names_category=False)
    if chance < 0.65 and one.thing.pattern != "plain":
        return described(one, ("pattern",), names_category=False)
    sizes = [other.thing.size for other in view.seen if other.thing.category == one.thing.category]
    if chance < 0.8 and says_size(one.thing.size, sizes):
        return described(one, ("size",), names_category=True)
    return described(one, ("color",), names_category=True)


def _relation_head(view: View, rng: random.Random) -> Description:
    if rng.random() < 0.5:
        return ANYTHING
    return bare(rng.choice(view.clear))


def _member(view: View, rng: random.Random) -> Group | None:
    """Return one side of a union: a thing by its name, or all of a kind."""
    if rng.random() < 0.6:
        one = rng.choice(view.clear)
        name = shortest_name(view, rng, one)
        return Group(kind="one", seen=(one,), text=name) if name else None
    head = bare(rng.choice(view.clear))
    found = view.matches(head.fits)
    if not found or len(found) < 2:
        return None
    return Group(kind="category", seen=found, text=f"all {noun_slots(rng, head)['plural']}")


def _may_be_said(view: View, color: str, category: str) -> bool:
    """Keep the pairs that only the test split draws unheard elsewhere, not even as absent."""
    return view.split == "test" or (color, category) not in HELD_OUT_PAIRS


def _related_to_none(view: View, rng: random.Random) -> Group | None:
    one, other = (rng.choice(view.clear) for _ in range(2))
    head, relation = bare(one), rng.choice(_SIDES)
    name = shortest_name(view, rng, other)
    if one is other or name is None or view.matches(related(view, head, relation, other)) != ():
        return None
    slots = noun_slots(rng, head) | {"rel": rng.choice(RELATION_WORDS[relation]), "other": name}
    return _group("none", (), say(rng, RELATION, view.split, slots))
