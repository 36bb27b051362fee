"""A drawing in, expressions out: every task's phrases about one scene, true and seeded."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from ...runtime.errors import UnknownNameError
from .catalogue import CATEGORIES
from .expression import Expression, expression_about
from .grouping import GROUPERS
from .naming import carried, name_one
from .phrases import part_slots
from .questions import IMPLICIT_ASKERS, VQA_ASKERS
from .referring import REFERRERS
from .sight import View, look, targets_of
from .templates import PART, SEMANTIC_PREFIX
from .truth import Drawing
from .wording import draw_kind, say

MULTI_WEIGHTS = {
    "category": 20,
    "attribute": 25,
    "count": 10,
    "union": 15,
    "except": 8,
    "relation": 12,
    "one": 8,
    "none": 20,
}
"""How often each kind of group is tried."""
REFERENCE_WEIGHTS = {"trait": 40, "two": 10, "other": 20, "relation": 35, "size": 15, "part": 8}
"""How often each way of referring is tried."""
IMPLICIT_WEIGHTS = {"object": 30, "two": 20, "part": 15, "part by use": 15, "object and part": 20}
"""How often each way of asking for masks is tried."""
VQA_WEIGHTS = {"count": 35, "color": 35, "any": 15, "related": 15}
"""How often each way of asking for words is tried."""
_TRIES_EACH = 4


def express(
    drawing: Drawing, *, seed: int, tasks: Sequence[str] = ("single",), per_task: int = 4
) -> tuple[Expression, ...]:
    """Say true things about a drawing, in the wording of its split.

    Args:
        drawing: What is spoken of.
        seed: Another seed gives other phrases; the same seed the same ones.
        tasks: Which of `expression.TASKS`, without "dialogue" (see `dialogue.converse`).
        per_task: Most phrases of each task; a poor scene gives fewer.

    Returns:
        Phrases in the order of `tasks`, no two of one task with the same text.

    Raises:
        UnknownNameError: A task is not in the table.
    """
    for task in tasks:
        if task not in _SPEAKERS:
            raise UnknownNameError("task", task, _SPEAKERS)
    view = look(drawing)
    if not view.clear:
        return ()
    spoken = []
    for task in tasks:
        rng = random.Random(f"{seed} {drawing.scene.split} {drawing.scene.seed} {task}")
        spoken += _several(view, rng, _SPEAKERS[task], per_task)
    return tuple(spoken)


def _several(
    view: View,
    rng: random.Random,
    speak: Callable[[View, random.Random], Expression | None],
    wanted: int,
) -> list[Expression]:
    found: dict[str, Expression] = {}
    for _ in range(_TRIES_EACH * wanted):
        if len(found) == wanted:
            break
        if expression := speak(view, rng):
            found.setdefault(expression.text, expression)
    return list(found.values())


def speak_single(view: View, rng: random.Random) -> Expression | None:
    """Name exactly one object."""
    named = name_one(view, rng)
    if named is None:
        return None
    text = carried(view, rng, named.text, named.definite)
    targets = targets_of((named.one,))
    return expression_about(view, task="single", kind=named.kind, text=text, targets=targets)


def speak_part(view: View, rng: random.Random) -> Expression | None:
    """Name one part of one object."""
    named = name_one(view, rng)
    if named is None or not named.one.parts:
        return None
    part = rng.choice(named.one.parts)
    slots = part_slots(part, named.definite, ends_in_noun=named.ends_in_noun)
    text = say(rng, PART, view.split, slots)
    if text is None:
        return None
    text = carried(view, rng, text, f"the {part} of {named.definite}")
    targets = targets_of((named.one,), part)
    return expression_about(view, task="part", kind=named.kind, text=text, targets=targets)


def speak_semantic(view: View, rng: random.Random) -> Expression | None:
    """Name a category, or a part of it, and mean every pixel of it: "[semantic] mug handle"."""
    category = rng.choice(view.clear).thing.category
    members = [one for one in view.seen if one.thing.category == category]
    text, part = f"{SEMANTIC_PREFIX}{category}", None
    if rng.random() < 0.5:
        part = rng.choice(CATEGORIES[category].parts).name
        members = [one for one in members if part in one.traces]
        text = f"{text} {part}"
    if not members:
        return None
    kind = "part" if part else "category"
    targets = targets_of(members, part)
    return expression_about(view, task="semantic", kind=kind, text=text, targets=targets)


def speak_multi(view: View, rng: random.Random) -> Expression | None:
    """Point at none, one or several objects."""
    group = GROUPERS[draw_kind(rng, MULTI_WEIGHTS)](view, rng)
    if group is None:
        return None
    targets = targets_of(group.seen)
    return expression_about(view, task="multi", kind=group.kind, text=group.text, targets=targets)


def speak_reference(view: View, rng: random.Random) -> Expression | None:
    """Point at objects with the help of masks."""
    return REFERRERS[draw_kind(rng, REFERENCE_WEIGHTS)](view, rng)


def speak_implicit(view: View, rng: random.Random) -> Expression | None:
    """Ask for objects or parts by what they are for; the answer names and marks each."""
    return IMPLICIT_ASKERS[draw_kind(rng, IMPLICIT_WEIGHTS)](view, rng)


def speak_vqa(view: View, rng: random.Random) -> Expression | None:
    """Ask what words alone can answer."""
    return VQA_ASKERS[draw_kind(rng, VQA_WEIGHTS)](view, rng)


_SPEAKERS = {
    "single": speak_single,
    "multi": speak_multi,
    "semantic": speak_semantic,
    "part": speak_part,
    "reference": speak_reference,
    "implicit": speak_implicit,
    "vqa": speak_vqa,
}
