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


def holds(view: View, relation: str, one: Seen, other: Seen) -> Verdict:
    """Judge "`one` is `relation` `other`".

    Args:
        view: The scene both belong to.
        relation: Key of `RELATIONS`.
        one: What the phrase speaks of.
        other: What it is compared with.
    """
    return False if one.index == other.index else RELATIONS[relation](view, one, other)


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


def _edge(one: Seen, side: str) -> float:
    return one.box_xyxy[_EDGES[side]]


def _beside(one: Seen, other: Seen, side: str) -> Verdict:
    """Judge whether `one` lies towards `side` of `other`: apart, and more along than across."""
    axis, sign = _AXES[side]
    along = sign * (other.center_xy[axis] - one.center_xy[axis])
    across = abs(other.center_xy[1 - axis] - one.center_xy[1 - axis])
    if along <= _LEVEL:
        return False
    near, far = ("right", "left") if axis == 0 else ("bottom", "top")
    if sign < 0:
        near, far = far, near
    overlap = sign * (_edge(one, near) - _edge(other, far))
    is_sure = along >= _APART and across <= along and overlap <= 0.3 * along
    return True if is_sure else None


def _left(view: View, one: Seen, other: Seen) -> Verdict:
    return _beside(one, other, "left")


def _right(view: View, one: Seen, other: Seen) -> Verdict:
    return _beside(one, other, "right")


def _above(view: View, one: Seen, other: Seen) -> Verdict:
    return _beside(one, other, "top")


def _below(view: View, one: Seen, other: Seen) -> Verdict:
    return _beside(one, other, "bottom")


def _near(view: View, one: Seen, other: Seen) -> Verdict:
    if gap(one, other) >= _FAR:
        return False
    is_stacked = one.index == other.thing.supporter or other.index == one.thing.supporter
    is_free = not _covers(view, one, other) and not _covers(view, other, one)
    return True if gap(one, other) <= _CLOSE and is_free and not is_stacked else None


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
    hidden = view.covered[one.index][other.index]
    is_upright = not CATEGORIES[other.thing.category].is_flat
    is_stacked = one.thing.supporter == other.index
    return True if hidden > 0.06 * other.full_area and is_upright and not is_stacked else None


def _behind(view: View, one: Seen, other: Seen) -> Verdict:
    return _front(view, other, one)


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
}
"""Relation name -> judge(view, one, other)."""
