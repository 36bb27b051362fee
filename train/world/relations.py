"""How two seen objects lie to each other, left of, on, nearest to: each yes, no or arguable."""

from __future__ import annotations

from collections.abc import Sequence

from .catalogue import CATEGORIES
from .sight import Seen, Verdict, View

_APART = 0.12
"""Centres this far apart along an axis are clearly in that order (shorter sides)."""
_LEVEL = 0.03
"""Centres closer than this along an axis are level."""
_CLOSE, _FAR = 0.05, 0.2
"""Gaps that are clearly "next to" and clearly not."""
_HIDDEN, _PARTED = 0.06, 0.03
"""The share that a clear overlap hides of an object, and a gap that rules out any overlap."""


def holds(view: View, relation: str, one: Seen, other: Seen) -> Verdict:
    """Judge "`one` is `relation` `other`".

    Args:
        view: The scene both belong to.
        relation: Key of `RELATIONS`.
        one: What the phrase speaks of.
        other: What it is compared with.
    """
    if one.index == other.index:
        return relation == "same"
    return RELATIONS[relation](view, one, other)


def gap(one: Seen, other: Seen) -> float:
    """Return the distance between two visible boxes; 0 when they touch or overlap."""
    left, top, right, bottom = one.box_xyxy
    left2, top2, right2, bottom2 = other.box_xyxy
    dx, dy = max(left2 - right, left - right2, 0.0), max(top2 - bottom, top - bottom2, 0.0)
    return (dx * dx + dy * dy) ** 0.5


def distance(one: Seen, other: Seen) -> float:
    """Return the distance between the centres of two visible boxes."""
    (x, y), (x2, y2) = one.center_xy, other.center_xy
    return ((x - x2) ** 2 + (y - y2) ** 2) ** 0.5


def nearest(candidates: Sequence[Seen], other: Seen) -> Seen | None:
    """Return the candidate that is nearest to `other` by gap and by centre, or None if arguable."""
    ranked = sorted(candidates, key=lambda one: distance(one, other))
    if len(ranked) < 2:
        return None
    first, rest = ranked[0], ranked[1:]
    is_clear = all(
        distance(one, other) > 1.25 * distance(first, other)
        and gap(one, other) > gap(first, other) + 0.04
        for one in rest
    )
    return first if is_clear else None


def extreme(candidates: Sequence[Seen], side: str) -> Seen | None:
    """Return the candidate farthest to a side, or None if arguable.

    Args:
        candidates: At least two, or nothing is extreme.
        side: "left", "right", "top" or "bottom".
    """
    first, *rest = _ranked(candidates, side)
    return first if rest and all(_is_before(first, one, side) for one in rest) else None


def in_order(candidates: Sequence[Seen], side: str) -> tuple[Seen, ...]:
    """Return the candidates counted from a side, or () when the order is arguable."""
    ranked = _ranked(candidates, side)
    steps = zip(ranked[:-1], ranked[1:], strict=True)
    is_clear = all(_is_before(before, after, side) for before, after in steps)
    return tuple(ranked) if len(ranked) > 1 and is_clear else ()


def _ranked(candidates: Sequence[Seen], side: str) -> list[Seen]:
    axis, sign = _AXES[side]
    return sorted(candidates, key=lambda one: sign * one.center_xy[axis])


def _is_before(before: Seen, after: Seen, side: str) -> bool:
    """Say whether both centre and edge lie clearly farther to a side."""
    axis, sign = _AXES[side]
    centers = sign * (after.center_xy[axis] - before.center_xy[axis])
    edges = sign * (_edge(after, side) - _edge(before, side))
    return centers > 0.08 and edges > 0.02


def by_area(candidates: Sequence[Seen], *, largest: bool) -> Seen | None:
    """Return the candidate that is clearly the largest (or smallest), or None if arguable."""
    ranked = sorted(candidates, key=lambda one: one.full_area, reverse=largest)
    if len(ranked) < 2:
        return None
    first, second = ranked[:2]
    small, big = (second, first) if largest else (first, second)
    shows = all(one.area > 0.8 * one.full_area for one in (first, second))
    return first if shows and big.full_area > 1.5 * small.full_area else None


_AXES = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}
_EDGES = {"left": 0, "top": 1, "right": 2, "bottom": 3}
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def _edge(one: Seen, side: str) -> float:
    return one.box_xyxy[_EDGES[side]]


def _along(one: Seen, other: Seen, side: str) -> float:
    """Return how far the centre of `one` lies towards `side` of that of `other`."""
    axis, sign = _AXES[side]
    return sign * (other.center_xy[axis] - one.center_xy[axis])


def _is_past(one: Seen, other: Seen, side: str) -> bool:
    """Say whether the centres are clearly in order and the boxes hardly reach over each other."""
    sign = _AXES[side][1]
    overlap = sign * (_edge(one, _OPPOSITE[side]) - _edge(other, side))
    along = _along(one, other, side)
    return along >= _APART and overlap <= 0.3 * along


def _beside(one: Seen, other: Seen, side: str) -> Verdict:
    """Judge whether `one` lies towards `side` of `other`: apart, and more along than across."""
    axis = _AXES[side][0]
    along = _along(one, other, side)
    across = abs(other.center_xy[1 - axis] - one.center_xy[1 - axis])
    if along <= _LEVEL:
        return False
    return True if _is_past(one, other, side) and across <= along else None


def _diagonal(one: Seen, other: Seen, sides: tuple[str, str]) -> Verdict:
    """Judge whether `one` lies towards a corner of `other`: past both sides, about as far."""
    near, far = sorted(_along(one, other, side) for side in sides)
    if near <= _LEVEL:
        return False
    is_sure = all(_is_past(one, other, side) for side in sides)
    return True if is_sure and 2 * near >= far else None


def _left(view: View, one: Seen, other: Seen) -> Verdict:
    return _beside(one, other, "left")


def _right(view: View, one: Seen, other: Seen) -> Verdict:
    return _beside(one, other, "right")


def _above(view: View, one: Seen, other: Seen) -> Verdict:
    return _beside(one, other, "top")


def _below(view: View, one: Seen, other: Seen) -> Verdict:
    return _beside(one, other, "bottom")


def _top_left(view: View, one: Seen, other: Seen) -> Verdict:
    return _diagonal(one, other, ("top", "left"))


def _top_right(view: View, one: Seen, other: Seen) -> Verdict:
    return _diagonal(one, other, ("top", "right"))


def _bottom_left(view: View, one: Seen, other: Seen) -> Verdict:
    return _diagonal(one, other, ("bottom", "left"))


def _bottom_right(view: View, one: Seen, other: Seen) -> Verdict:
    return _diagonal(one, other, ("bottom", "right"))


def _near(view: View, one: Seen, other: Seen) -> Verdict:
    if gap(one, other) >= _FAR:
        return False
    is_free = _are_free(view, one, other) and not _are_stacked(one, other)
    return True if gap(one, other) <= _CLOSE and is_free else None


def _are_free(view: View, one: Seen, other: Seen) -> bool:
    return not _covers(view, one, other) and not _covers(view, other, one)


def _are_stacked(one: Seen, other: Seen) -> bool:
    return one.index == other.thing.supporter or other.index == one.thing.supporter


def _overlapping(view: View, one: Seen, other: Seen) -> Verdict:
    """Judge whether one hides a piece of the other where they meet; a stack is arguable."""
    if gap(one, other) >= _PARTED and _are_free(view, one, other):
        return False
    is_sure = gap(one, other) == 0 and not _are_stacked(one, other)
    return True if is_sure and (_hides(view, one, other) or _hides(view, other, one)) else None


def _hides(view: View, one: Seen, other: Seen) -> bool:
    return view.covered[one.index][other.index] > _HIDDEN * other.full_area


def _same(view: View, one: Seen, other: Seen) -> Verdict:
    return one.index == other.index


def _covers(view: View, one: Seen, other: Seen) -> bool:
    return view.covered[one.index][other.index] > 0


def _on(view: View, one: Seen, other: Seen) -> Verdict:
    if one.thing.supporter == other.index:
        return True
    return None if _covers(view, one, other) or gap(one, other) == 0 else False


def _under(view: View, one: Seen, other: Seen) -> Verdict:
    return _on(view, other, one)


def _front(view: View, one: Seen, other: Seen) -> Verdict:
    left, _, right, bottom = one.box_xyxy
    left2, _, right2, bottom2 = other.box_xyxy
    if bottom <= bottom2 or right <= left2 or right2 <= left:
        return None if _covers(view, one, other) else False
    is_upright = not CATEGORIES[other.thing.category].is_flat
    is_stacked = one.thing.supporter == other.index
    return True if _hides(view, one, other) and is_upright and not is_stacked else None


def _behind(view: View, one: Seen, other: Seen) -> Verdict:
    return _front(view, other, one)


PHRASED = ("left", "right", "above", "below", "near", "on", "under", "front", "behind")
"""The relations that single phrases draw from, in this order; dialogues draw from all."""
RELATIONS = {
    "left": _left,
    "right": _right,
    "above": _above,
    "below": _below,
    "near": _near,
    "on": _on,
    "under": _under,
    "front": _front,
    "behind": _behind,
    "top-left": _top_left,
    "top-right": _top_right,
    "bottom-left": _bottom_left,
    "bottom-right": _bottom_right,
    "overlapping": _overlapping,
    "same": _same,
}
"""Relation name -> judge(view, one, other)."""
