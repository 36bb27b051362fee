"""Questions with answers in words: what something is for, how many there are, whether it is so."""

from __future__ import annotations

import random
from collections.abc import Sequence

from . import relations
from .catalogue import CATEGORIES
from .expression import SEG, Expression, expression_about
from .grouping import absent_description
from .naming import shortest_name
from .phrases import described, is_plural, listed, noun_slots, verbs
from .question_templates import (
    ANSWER_PART,
    ANSWER_TWO_USES,
    ANSWER_USE,
    ASK_BOTH,
    ASK_COLOR,
    ASK_COUNT,
    ASK_IF_ANY,
    ASK_IF_RELATED,
    ASK_PART,
    ASK_PART_BY_USE,
    ASK_TWO_USES,
    ASK_USE,
)
from .sight import Seen, Verdict, View, targets_of
from .templates import NUMBERS, RELATION_WORDS
from .truth import Target
from .wording import Wording, say

ARGUABLE_USES = {
    "drink from": ("teapot",),
    "carry water in": ("mug", "pan", "teapot"),
    "keep juice in": ("mug", "teapot"),
    "store things in": ("bottle", "mug", "pan", "teapot"),
    "put things away in": ("mug", "pan"),
    "sit on": ("box",),
    "take a seat on": ("box",),
    "rest on": ("box",),
    "smell": ("apple",),
    "give to somebody you love": ("apple", "book", "box", "clock", "lamp", "mug", "teapot"),
    "build with": ("knife", "scissors"),
    "spread butter with": ("spoon",),
    "warm your hands on": ("lamp", "pan", "teapot"),
    "cook with": ("knife", "spoon", "teapot"),
    "put on the stove": ("teapot",),
    "cut paper with": ("knife",),
    "trim a thread with": ("knife",),
    "stir with": ("knife",),
    "scoop sugar with": ("mug",),
    "brew tea in": ("mug",),
    "serve tea with": ("mug",),
}
"""Function -> further categories that one might use for it; no question is asked in their sight."""


def ask_for_use(view: View, rng: random.Random) -> Expression | None:
    """Ask for objects by what they are for: "What could I drink from?"."""
    use, found = _use(view, rng)
    if not found:
        return None
    words = {"x": _named_targets(view, rng, found), "is": _number(found)}
    answer = _sentence(view, rng, ANSWER_USE, words)
    return _implicit(view, rng, "object", ASK_USE, {"use": use}, targets_of(found), answer)


def ask_for_two_uses(view: View, rng: random.Random) -> Expression | None:
    """Ask for two kinds of objects at once."""
    (use, found), (use2, found2) = _use(view, rng), _use(view, rng)
    if not found or not found2 or {one.index for one in found} & {one.index for one in found2}:
        return None
    words = {"x": _named_targets(view, rng, found), "y": _named_targets(view, rng, found2)}
    answer = _sentence(view, rng, ANSWER_TWO_USES, words)
    slots = {"use": use, "use2": use2}
    return _implicit(view, rng, "two", ASK_TWO_USES, slots, targets_of(found + found2), answer)


def ask_for_part(view: View, rng: random.Random) -> Expression | None:
    """Ask for a part of a named object by its use: "On the mug, which is the part you hold?"."""
    one = rng.choice(view.clear)
    part, what_for = _part_use(rng, one)
    name = shortest_name(view, rng, one)
    if name is None or part not in one.parts:
        return None
    slots = {"x": name, **_part_words(part, what_for)}
    words = {"x": f"the {part} {SEG}", "is": slots["is"]}
    answer = _sentence(view, rng, ANSWER_PART, words)
    return _implicit(view, rng, "part", ASK_PART, slots, targets_of((one,), part), answer)


def ask_for_part_by_use(view: View, rng: random.Random) -> Expression | None:
    """Ask for parts of objects that are themselves only known by their use."""
    use, found = _use(view, rng)
    what_for, parts = _parts_for(rng, found)
    if not parts:
        return None
    pairs = list(zip(found, parts, strict=True))
    names = [f"the {part} {SEG} of {_name(view, rng, one)}" for one, part in pairs]
    targets = tuple(target for one, part in pairs for target in targets_of((one,), part))
    slots = {"use": use, **_part_words(parts[0], what_for)}
    words = {"x": listed(names), "is": slots["is"] if len(names) == 1 else "are"}
    answer = _sentence(view, rng, ANSWER_PART, words)
    return _implicit(view, rng, "part by use", ASK_PART_BY_USE, slots, targets, answer)


def ask_for_both(view: View, rng: random.Random) -> Expression | None:
    """Ask for objects by their use and for their part: "What could I cut with, holding what?"."""
    use, found = _use(view, rng)
    what_for, parts = _parts_for(rng, found)
    if not parts:
        return None
    names, targets = [], []
    for one, part in zip(found, parts, strict=True):
        their = "their" if is_plural(one.thing.category) else "its"
        names.append(f"{_name(view, rng, one)} {SEG} with {their} {part} {SEG}")
        targets += [*targets_of((one,)), *targets_of((one,), part)]
    words = {"x": listed(names), "is": _number(found)}
    answer = _sentence(view, rng, ANSWER_USE, words)
    slots = {"use": use, **_part_words(parts[0], what_for)}
    return _implicit(view, rng, "object and part", ASK_BOTH, slots, tuple(targets), answer)


def ask_how_many(view: View, rng: random.Random) -> Expression | None:
    """Ask for a number: "How many mugs are there?"."""
    traits = rng.choice(((), (), ("color",)))
    head = described(rng.choice(view.clear), traits, names_category=True)
    if rng.random() < 0.25:
        head = described(rng.choice(view.clear), ("color",), names_category=False)
    if rng.random() < 0.15:
        head = absent_description(view, rng)
    found = view.matches(head.fits)
    if found is None:
        return None
    return _vqa(view, rng, "count", ASK_COUNT, noun_slots(rng, head), NUMBERS[len(found)])


def ask_color(view: View, rng: random.Random) -> Expression | None:
    """Ask for the color of an object that is named without it."""
    one = rng.choice(view.clear)
    name = shortest_name(view, rng, one)
    if name is None or one.thing.color in name.split():
        return None
    slots = {"x": name, **verbs(one.thing.category)}
    return _vqa(view, rng, "color", ASK_COLOR, slots, one.thing.color)


def ask_if_any(view: View, rng: random.Random) -> Expression | None:
    """Ask whether there is such a thing; half of the answers are "no"."""
    traits = rng.choice(((), ("color",)))
    head = described(rng.choice(view.clear), traits, names_category=True)
    if rng.random() < 0.5:
        head = absent_description(view, rng)
    found = view.matches(head.fits)
    if found is None:
        return None
    answer = "yes" if found else "no"
    return _vqa(view, rng, "yes or no", ASK_IF_ANY, noun_slots(rng, head), answer)


def ask_if_related(view: View, rng: random.Random) -> Expression | None:
    """Ask whether two objects lie so to each other."""
    one, other = (rng.choice(view.clear) for _ in range(2))
    relation = rng.choice(("left", "right", "above", "below", "on", "under"))
    verdict = relations.holds(view, relation, one, other)
    name, anchor = shortest_name(view, rng, one), shortest_name(view, rng, other)
    if verdict is None or one is other or name is None or anchor is None:
        return None
    slots = {"x": name, "other": anchor, "rel": rng.choice(RELATION_WORDS[relation])}
    answer = "yes" if verdict else "no"
    return _vqa(view, rng, "yes or no", ASK_IF_RELATED, slots | verbs(one.thing.category), answer)


IMPLICIT_ASKERS = {
    "object": ask_for_use,
    "two": ask_for_two_uses,
    "part": ask_for_part,
    "part by use": ask_for_part_by_use,
    "object and part": ask_for_both,
}
"""Way of asking with masks in the answer -> how; None where the scene does not allow it."""

VQA_ASKERS = {
    "count": ask_how_many,
    "color": ask_color,
    "any": ask_if_any,
    "related": ask_if_related,
}
"""Way of asking with words alone in the answer -> how; None where the scene does not allow it."""


def _use(view: View, rng: random.Random) -> tuple[str, tuple[Seen, ...]]:
    """Pick a function and return the objects that serve it; () when opinions may differ."""
    use = rng.choice(CATEGORIES[rng.choice(view.clear).thing.category].functions)

    def serves(one: Seen) -> Verdict:
        if use in CATEGORIES[one.thing.category].functions:
            return True
        return None if one.thing.category in ARGUABLE_USES.get(use, ()) else False

    return use, view.matches(serves) or ()


def _part_use(rng: random.Random, one: Seen) -> tuple[str, str]:
    """Pick a part of an object and what it is for."""
    part = rng.choice(CATEGORIES[one.thing.category].parts)
    return part.name, rng.choice(part.functions)


def _parts_for(rng: random.Random, found: Sequence[Seen]) -> tuple[str, tuple[str, ...]]:
    """Pick what a part is for and name that part of every object; () when one lacks it."""
    if not found:
        return "", ()
    _, what_for = _part_use(rng, found[0])
    parts = tuple(
        part.name
        for one in found
        for part in CATEGORIES[one.thing.category].parts
        if what_for in part.functions and part.name in one.parts
    )
    return what_for, parts if len(parts) == len(found) else ()


def _part_words(part: str, what_for: str) -> dict[str, str]:
    """Return the words for the part or parts that do something."""
    word = "parts" if is_plural(part) else "part"
    return {"part": word, "what_for": what_for, "is": verbs(part)["is"]}


def _number(found: Sequence[Seen]) -> str:
    """Return the verb that agrees with all objects of an answer."""
    return verbs(found[0].thing.category)["is"] if len(found) == 1 else "are"


def _name(view: View, rng: random.Random, one: Seen) -> str:
    """Name an object in an answer; its mask says the rest where words do not suffice."""
    if name := shortest_name(view, rng, one, says_category=True):
        return name
    slots = noun_slots(rng, described(one, ("color",), names_category=True))
    return f"{slots['a']} {slots['full']}"


def _named_targets(view: View, rng: random.Random, found: Sequence[Seen]) -> str:
    return listed([f"{_name(view, rng, one)} {SEG}" for one in found])


def _sentence(view: View, rng: random.Random, table: Wording, slots: dict) -> str:
    text = say(rng, table, view.split, slots) or ""
    return text[:1].upper() + text[1:]


def _implicit(
    view: View,
    rng: random.Random,
    kind: str,
    table: Wording,
    slots: dict,
    targets: tuple[Target, ...],
    answer: str,
) -> Expression:
    text = _sentence(view, rng, table, slots)
    return expression_about(
        view, task="implicit", kind=kind, text=text, targets=targets, answer=answer
    )


def _vqa(
    view: View, rng: random.Random, kind: str, table: Wording, slots: dict, answer: str
) -> Expression:
    text = _sentence(view, rng, table, slots)
    return expression_about(view, task="vqa", kind=kind, text=text, targets=(), answer=answer)
