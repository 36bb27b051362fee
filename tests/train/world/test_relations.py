from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest

from saymask.train.world import relations
from saymask.train.world.sight import Seen, View, look

CENTER = (0.4, 0.4, 0.6, 0.6)
PLACES = {
    "left": (0.1, 0.4, 0.3, 0.6),
    "right": (0.7, 0.4, 0.9, 0.6),
    "above": (0.4, 0.1, 0.6, 0.3),
    "below": (0.4, 0.7, 0.6, 0.9),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
OPPOSITE_CORNER = {
    "top-left": "bottom-right",
    "top-right": "bottom-left",
    "bottom-left": "top-right",
    "bottom-right": "top-left",
}


def _pairs(drawings) -> Iterator[tuple[View, Seen, Seen]]:
    for drawing in drawings["train"]:
        view = look(drawing)
        for one, other in permutations(view.clear, 2):
            yield view, one, other


@pytest.mark.parametrize("relation", PLACES)
def test_sides_are_clear_along_an_axis(relation: str, seen, viewed) -> None:
    one, other = seen(0, PLACES[relation]), seen(1, CENTER)
    view = viewed(one, other)
    for name in PLACES:
        assert relations.holds(view, name, one, other) is (name == relation)
        assert relations.holds(view, name, other, one) is (name == OPPOSITE[relation])


def test_far_across_is_a_matter_of_opinion(seen, viewed) -> None:
    one, other = seen(0, (0.2, 0.0, 0.3, 0.1)), seen(1, CENTER)
    view = viewed(one, other)
    assert relations.holds(view, "left", one, other) is None
    assert relations.holds(view, "above", one, other) is True
    assert relations.holds(view, "right", one, other) is False


def test_a_thing_is_the_same_as_itself_and_nothing_else(seen, viewed) -> None:
    one, twin = seen(0, CENTER), seen(1, CENTER)
    view = viewed(one, twin)
    held = {name for name in relations.RELATIONS if relations.holds(view, name, one, one)}
    assert held == {"same"}
    assert relations.holds(view, "same", one, twin) is False


def test_single_phrases_draw_from_relations_that_have_a_judge() -> None:
    assert set(relations.RELATIONS) > set(relations.PHRASED)
    assert not set(relations.PHRASED) & {*OPPOSITE_CORNER, "overlapping", "same"}


@pytest.mark.parametrize("relation", OPPOSITE_CORNER)
def test_corners_are_clear_along_a_diagonal(relation: str, seen, viewed) -> None:
    vertical, horizontal = relation.split("-")
    x, y = {"left": 0.1, "right": 0.7}[horizontal], {"top": 0.1, "bottom": 0.7}[vertical]
    one, other = seen(0, (x, y, x + 0.2, y + 0.2)), seen(1, CENTER)
    view = viewed(one, other)
    for name in OPPOSITE_CORNER:
        assert relations.holds(view, name, one, other) is (name == relation)
        assert relations.holds(view, name, other, one) is (name == OPPOSITE_CORNER[relation])


@pytest.mark.parametrize(
    ("box_xyxy", "expected"),
    [
        ((0.1, 0.15, 0.3, 0.35), True),
        ((0.1, 0.38, 0.3, 0.58), False),
        ((0.1, 0.32, 0.3, 0.52), None),
        ((0.3, 0.3, 0.5, 0.5), None),
        ((0.38, 0.1, 0.58, 0.3), False),
    ],
    ids=["clear", "level", "much further along", "reaching over", "straight above"],
)
def test_a_diagonal_is_apart_along_both_axes(box_xyxy, expected, seen, viewed) -> None:
    one, other = seen(0, box_xyxy), seen(1, CENTER)
    assert relations.holds(viewed(one, other), "top-left", one, other) is expected


def test_corners_are_opposite_and_never_level(drawings) -> None:
    held = 0
    for view, one, other in _pairs(drawings):
        for name, opposite in OPPOSITE_CORNER.items():
            verdict = relations.holds(view, name, one, other)
            assert verdict is relations.holds(view, opposite, other, one)
            if verdict:
                held += 1
                (x, y), (x2, y2) = one.center_xy, other.center_xy
                assert min(abs(x - x2), abs(y - y2)) > 0.1
    assert held > 100


def test_overlapping_is_hiding_whichever_is_named_first(drawings) -> None:
    held = 0
    for view, one, other in _pairs(drawings):
        verdict = relations.holds(view, "overlapping", one, other)
        assert verdict is relations.holds(view, "overlapping", other, one)
        if verdict:
            held += 1
            hidden = view.covered[one.index][other.index] + view.covered[other.index][one.index]
            assert hidden > 0
            assert relations.gap(one, other) == 0
    assert held > 10


def test_overlapping_is_arguable_for_a_touch_and_a_stack(seen, viewed) -> None:
    lamp, mug = seen(0, (0.3, 0.2, 0.6, 0.6), "lamp"), seen(1, (0.4, 0.5, 0.7, 0.8))
    apart, on_top = seen(1, (0.7, 0.5, 0.9, 0.8)), seen(1, (0.4, 0.5, 0.7, 0.8), supporter=0)
    hidden, grazed = {(1, 0): 0.02}, {(1, 0): 0.001}
    cases = ((mug, hidden, True), (mug, grazed, None), (mug, {}, None), (on_top, hidden, None),
             (apart, {}, False), (apart, hidden, None))  # fmt: skip
    for one, covered, expected in cases:
        view = viewed(lamp, one, covered=covered)
        assert relations.holds(view, "overlapping", one, lamp) is expected
        assert relations.holds(view, "overlapping", lamp, one) is expected


def test_next_to_needs_a_small_gap_and_no_contact(seen, viewed) -> None:
    other = seen(1, CENTER)
    close, middling, far = (seen(0, (x, 0.4, 0.39 - gap, 0.6)) for x, gap in
                            ((0.2, 0.0), (0.1, 0.1), (0.0, 0.25)))  # fmt: skip
    assert relations.holds(viewed(close, other), "near", close, other) is True
    assert relations.holds(viewed(middling, other), "near", middling, other) is None
    assert relations.holds(viewed(far, other), "near", far, other) is False
    touching = viewed(close, other, covered={(0, 1): 0.01})
    assert relations.holds(touching, "near", close, other) is None


def test_what_stands_on_a_thing_is_on_it(seen, viewed) -> None:
    box = seen(0, (0.3, 0.5, 0.7, 0.9), "box")
    mug = seen(1, (0.4, 0.35, 0.6, 0.55), supporter=0)
    view = viewed(box, mug, covered={(1, 0): 0.01})
    assert relations.holds(view, "on", mug, box) is True
    assert relations.holds(view, "under", box, mug) is True
    assert relations.holds(view, "on", box, mug) is None
    assert relations.holds(view, "front", mug, box) is None


def test_what_hides_an_upright_thing_from_below_is_in_front(seen, viewed) -> None:
    lamp = seen(0, (0.3, 0.2, 0.6, 0.6), "lamp")
    mug = seen(1, (0.4, 0.5, 0.7, 0.8))
    view = viewed(lamp, mug, covered={(1, 0): 0.02})
    assert relations.holds(view, "front", mug, lamp) is True
    assert relations.holds(view, "behind", lamp, mug) is True
    assert relations.holds(view, "front", lamp, mug) is False
    assert relations.holds(view, "on", mug, lamp) is None


def test_nearest_and_extreme_need_a_margin(seen) -> None:
    other = seen(9, CENTER)
    near, far, rival = (seen(i, (x, 0.4, x + 0.1, 0.6)) for i, x in enumerate((0.28, 0.0, 0.26)))
    assert relations.nearest((near, far), other) is near
    assert relations.nearest((near, rival), other) is None
    assert relations.extreme((near, far), "left") is far
    assert relations.extreme((near, far), "right") is near
    assert relations.extreme((near, rival), "left") is None
    assert relations.in_order((near, far), "right") == (near, far)
    assert relations.extreme((near,), "left") is None


def test_an_extreme_does_not_need_an_order_of_the_rest(seen) -> None:
    first, second, rival = (seen(i, (x, 0.4, x + 0.1, 0.6)) for i, x in enumerate((0, 0.3, 0.31)))
    assert relations.extreme((second, rival, first), "left") is first
    assert relations.in_order((second, rival, first), "left") == ()


def test_a_wide_thing_that_reaches_farther_spoils_an_extreme(seen) -> None:
    narrow, wide = seen(0, (0.1, 0.4, 0.2, 0.6)), seen(1, (0.0, 0.4, 0.6, 0.6))
    assert relations.extreme((narrow, wide), "left") is None
    assert relations.extreme((narrow, wide), "right") is wide


def test_the_largest_is_larger_by_half(seen) -> None:
    small, large, rival = (seen(i, CENTER, area=area) for i, area in enumerate((0.02, 0.05, 0.04)))
    assert relations.by_area((small, large), largest=True) is large
    assert relations.by_area((small, large), largest=False) is small
    assert relations.by_area((small, large, rival), largest=True) is None
    assert relations.by_area((large,), largest=True) is None
