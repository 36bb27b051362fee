from __future__ import annotations

import random

import pytest

from saymask.train.world.catalogue import CATEGORIES
from saymask.train.world.phrases import (
    ANYTHING,
    described,
    is_plural,
    listed,
    noun_slots,
    only,
    part_slots,
    related,
    says_size,
    unique_descriptions,
    verbs,
)

LEFT, RIGHT = (0.1, 0.4, 0.3, 0.6), (0.7, 0.4, 0.9, 0.6)


def slots_of(one, traits=(), *, names_category=True) -> dict:
    description = described(one, traits, names_category=names_category)
    return noun_slots(random.Random(0), description)


def test_a_description_fits_what_has_its_traits(seen) -> None:
    red, blue = seen(0, LEFT), seen(1, RIGHT, color="blue")
    red_mug = described(red, ("color",), names_category=True)
    assert red_mug.fits(red)
    assert not red_mug.fits(blue)
    assert ANYTHING.fits(red)
    assert ANYTHING.fits(blue)


def test_only_what_is_alone_is_unique(seen, viewed) -> None:
    red, blue, clock = seen(0, LEFT), seen(1, RIGHT, color="blue"), seen(2, LEFT, "clock")
    view = viewed(red, blue, clock)
    assert not only(view, described(red, (), names_category=True))
    assert only(view, described(clock, (), names_category=True))
    first = next(unique_descriptions(view, red))
    assert (first.category, first.color, first.size) == ("mug", "red", None)
    assert next(unique_descriptions(view, clock)).color is None
    assert all(not d.fits(other) for d in unique_descriptions(view, red) for other in (blue, clock))


def test_plain_is_said_in_contrast_only(seen, viewed) -> None:
    plain, striped = seen(0, LEFT), seen(1, RIGHT, pattern="striped")
    patterns = {each.pattern for each in unique_descriptions(viewed(plain, striped), plain)}
    assert patterns == {"plain"}
    clock = seen(1, RIGHT, "clock", pattern="striped")
    patterns = {each.pattern for each in unique_descriptions(viewed(plain, clock), plain)}
    assert patterns == {None}


@pytest.mark.parametrize(
    ("size", "sizes", "is_said"),
    [
        ("large", ["large"], False),
        ("large", ["large", "medium"], True),
        ("medium", ["medium", "small"], False),
        ("medium", ["medium", "small", "large"], True),
        ("small", ["medium", "small"], True),
    ],
)
def test_sizes_need_a_comparison(size: str, sizes: list[str], is_said: bool) -> None:
    assert says_size(size, sizes) is is_said


def test_words_agree_with_the_noun(seen) -> None:
    apple = slots_of(seen(0, LEFT, "apple"))
    assert (apple["a"], apple["plural"], apple["one"], apple["is"]) == (
        "an", "apples", "apple", "is",
    )  # fmt: skip
    scissors = slots_of(seen(0, LEFT, "scissors"), ("color",))
    assert scissors["a"] == "a pair of"
    assert scissors["plural"] == "pairs of red scissors"
    assert scissors["one"] == "pair of red scissors"
    for name, category in CATEGORIES.items():
        assert is_plural(name) == category.plural.startswith("pairs of")
    assert verbs("scissors") == {"is": "are", "has": "have", "looks": "look"}


def test_slots_leave_out_what_is_not_said(seen) -> None:
    mug = seen(0, LEFT, pattern="striped")
    assert slots_of(mug)["color"] is None
    assert slots_of(mug, ("color",))["color"] == "red"
    assert slots_of(mug, ("color", "pattern"))["color"] is None
    assert slots_of(mug, ("pattern",))["marks"] == "stripes"
    both = slots_of(mug, ("color", "pattern"))
    assert (both["rest"], both["marks"]) == ("red", "stripes")
    assert slots_of(mug, ("color",), names_category=False)["trait"] == "red"
    assert slots_of(mug, ("color",))["trait"] is None


def test_names_own_their_parts() -> None:
    assert part_slots("handle", "the mug", ends_in_noun=True)["owners"] == "the mug's"
    assert part_slots("blades", "the scissors", ends_in_noun=True)["owners"] == "the scissors'"
    assert part_slots("blades", "the scissors")["owners"] is None
    assert part_slots("blades", "the scissors")["belong"] == "belong"


def test_lists_read_as_people_write_them() -> None:
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "", "a", "a and b", "a, b and c",
    ]  # fmt: skip


def test_related_asks_for_noun_and_place(seen, viewed) -> None:
    mug, clock, anchor = seen(0, LEFT), seen(1, LEFT, "clock"), seen(2, RIGHT, "lamp")
    view = viewed(mug, clock, anchor)
    head = described(mug, (), names_category=True)
    assert view.matches(related(view, head, "left", anchor)) == (mug,)
    assert view.matches(related(view, ANYTHING, "left", anchor)) == (mug, clock)
