"""Conversations about one scene, where later rounds point back at the masks of earlier ones.

The kinds of rounds follow MRSeg (SegLLM, arXiv 2410.18923, section 4): a part of an earlier output,
the same once more or a place around it, what touches it, the other one of its kind, what shares
its color.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...runtime.errors import UsageError
from .expression import SEG, Dialogue, Turn, expression_about
from .naming import carried, name_one, shortest_name
from .phrases import ANYTHING, bare, described, noun_slots, part_slots, related
from .sight import Seen, View, look
from .templates import ITSELF, OTHER_ONE, PART, RELATION, RELATION_WORDS, SAME_ONE, WHOLE
from .truth import Drawing, Target
from .wording import Wording, draw_kind, say

FOLLOW_WEIGHTS = {
    "hierarchical": 30,
    "positional": 30,
    "interactional": 20,
    "other": 15,
    "attribute": 15,
}
"""How often each kind of later round is tried."""
_TRIES = 16
_CAPTION_SHARE = 0.5
_AGAIN_SHARE = 0.15
_SIDES = ("left", "right", "above", "below")
_CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
_AROUND = (*_SIDES, *_CORNERS, "near", "overlapping")
_TOUCHING = ("on", "under", "front", "behind")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """What one round pointed at."""

    one: Seen
    part: str | None

    @property
    def target(self) -> Target:
        return Target(object_index=self.one.index, part=self.part)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """A phrase and what it points at."""

    text: str
    point: _Point


def converse(drawing: Drawing, *, seed: int, rounds: int) -> Dialogue:
    """Talk about a drawing round by round, each about exactly one object or part.

    Args:
        drawing: What is spoken of.
        seed: Another seed gives another conversation; the same seed the same one.
        rounds: Most rounds, at least 1; a poor scene gives fewer, none at all when nothing in it
            can be named.

    Raises:
        UsageError: `rounds` is below 1.
    """
    if rounds < 1:
        raise UsageError(f"`rounds` must be at least 1, got {rounds}; ask for more")
    view = look(drawing)
    rng = random.Random(f"{seed} {drawing.scene.split} {drawing.scene.seed} dialogue")
    turns: list[Turn] = []
    points: list[_Point] = []
    while view.clear and len(turns) < rounds:
        turn_and_point = _follow(view, rng, points) or _start(view, rng, points)
        if turn_and_point is None:
            break
        turn, point = turn_and_point
        turns.append(turn)
        points.append(point)
    return Dialogue(turns=tuple(turns))


def _start(view: View, rng: random.Random, points: Sequence[_Point]) -> tuple[Turn, _Point] | None:
    """Name a new object without looking back."""
    for _ in range(_TRIES):
        named = name_one(view, rng)
        if named is None:
            continue
        point = _Point(one=named.one, part=None)
        if point not in points:
            text = carried(view, rng, named.text, named.definite)
            return _turn(view, "first", _Said(text=text, point=point), points, ()), point
    return None


def _follow(view: View, rng: random.Random, points: Sequence[_Point]) -> tuple[Turn, _Point] | None:
    """Point at something new, or once more at the same, by what an earlier round pointed at."""
    for _ in range(_TRIES if points else 0):
        relation = draw_kind(rng, FOLLOW_WEIGHTS)
        number = rng.randrange(len(points)) + 1
        before = points[number - 1]
        said = _FOLLOWERS[relation](view, rng, before, _called(view, rng, before, number))
        # Only "the same again" comes back to an earlier point, and only once.
        if said is not None and points.count(said.point) <= (said.point == before):
            return _turn(view, relation, said, points, (number,)), said.point
    return None


def _turn(
    view: View, relation: str, said: _Said, points: Sequence[_Point], refers_to: tuple[int, ...]
) -> Turn:
    expression = expression_about(
        view,
        task="dialogue",
        kind=relation,
        text=said.text,
        targets=(said.point.target,),
        references=tuple(points[number - 1].target for number in refers_to),
        answer=SEG,
    )
    return Turn(expression=expression, relation=relation, refers_to=refers_to)


def _called(view: View, rng: random.Random, point: _Point, number: int) -> str:
    """Call an earlier output by its name, or by its number as SegLLM's users do."""
    if point.part is None and rng.random() < _CAPTION_SHARE:
        name = shortest_name(view, rng, point.one)
        if name is not None:
            return name
    return rng.choice((f"instance {number}", f"the output of round {number}"))


def _ask_part(view: View, rng: random.Random, before: _Point, called: str) -> _Said | None:
    """Go from an object to a part, or from a part to its object."""
    if before.part:
        slots = noun_slots(rng, bare(before.one)) | {"ref": called}
        return _said(view, rng, WHOLE, slots, before.one)
    if not before.one.parts:
        return None
    part = rng.choice(before.one.parts)
    return _said(view, rng, PART, part_slots(part, called), before.one, part)


def _ask_beside(view: View, rng: random.Random, before: _Point, called: str) -> _Said | None:
    if rng.random() < _AGAIN_SHARE:
        return _ask_again(view, rng, before, called)
    return _ask_related(view, rng, before, called, _AROUND)


def _ask_touching(view: View, rng: random.Random, before: _Point, called: str) -> _Said | None:
    return _ask_related(view, rng, before, called, _TOUCHING)


def _ask_related(
    view: View, rng: random.Random, before: _Point, called: str, among: Sequence[str]
) -> _Said | None:
    for _ in range(0 if before.part else _TRIES):
        relation, like = rng.choice(among), rng.choice(view.clear)
        head = rng.choice((ANYTHING, bare(like)))
        found = view.matches(related(view, head, relation, before.one))
        if found and len(found) == 1:
            words = rng.choice(RELATION_WORDS[relation])
            slots = noun_slots(rng, head) | {"rel": words, "other": called}
            return _said(view, rng, RELATION, slots, found[0])
    return None


def _ask_again(view: View, rng: random.Random, before: _Point, called: str) -> _Said | None:
    head = rng.choice((ANYTHING, bare(before.one)))
    found = view.matches(related(view, head, "same", before.one))
    if before.part or found is None:
        return None
    return _said(view, rng, ITSELF, noun_slots(rng, head) | {"ref": called}, found[0])


def _ask_other(view: View, rng: random.Random, before: _Point, called: str) -> _Said | None:
    head = bare(before.one)
    found = view.matches(lambda one: one is not before.one and head.fits(one))
    if before.part or found is None or len(found) != 1:
        return None
    return _said(view, rng, OTHER_ONE, noun_slots(rng, head) | {"ref": called}, found[0])


def _ask_alike(view: View, rng: random.Random, before: _Point, called: str) -> _Said | None:
    head = described(before.one, ("color",), names_category=False)
    found = view.matches(lambda one: one is not before.one and head.fits(one))
    if before.part or found is None or len(found) != 1:
        return None
    return _said(view, rng, SAME_ONE, {"trait": "color", "ref": called}, found[0])


def _said(
    view: View,
    rng: random.Random,
    table: Wording,
    slots: dict[str, str | None],
    one: Seen,
    part: str | None = None,
) -> _Said | None:
    text = say(rng, table, view.split, slots)
    return None if text is None else _Said(text=text, point=_Point(one=one, part=part))


_FOLLOWERS: dict[str, Callable[[View, random.Random, _Point, str], _Said | None]] = {
    "hierarchical": _ask_part,
    "positional": _ask_beside,
    "interactional": _ask_touching,
    "other": _ask_other,
    "attribute": _ask_alike,
}
