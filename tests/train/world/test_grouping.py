from __future__ import annotations

import random
import re

import pytest

from saymask.train.world.catalogue import HELD_OUT_PAIRS
from saymask.train.world.grouping import GROUPERS, absent_description
from saymask.train.world.sight import look
from saymask.train.world.templates import NUMBERS, RELATION_WORDS

EXCEPT = re.compile(r",? (?:except|but not|but|other than|without)(?= )")
AND = re.compile(
    r",? (?:and also|and then|and|as well as|together with|plus|along with|but also)(?= the | all )"
)
RELATION = re.compile("|".join(words for each in RELATION_WORDS.values() for words in each))


def grouped(drawings, kind: str, *, tries: int = 2):
    """Yield groups of one kind in many scenes: drawing, phrase, indices."""
    for scenes in drawings.values():
        for drawing in scenes:
            view = look(drawing)
            for seed in range(tries if view.clear else 0):
                if group := GROUPERS[kind](view, random.Random(seed)):
                    yield drawing, group.text, {one.index for one in group.seen}


@pytest.mark.parametrize("kind", ["category", "attribute", "count", "one"])
def test_groups_hold_everything_that_fits(kind: str, drawings, fitting) -> None:
    said = list(grouped(drawings, kind))
    assert len(said) > 200
    for drawing, text, indices in said:
        if kind != "one" or not re.search("most|est|far|edge|top|bottom|left|right|from", text):
            assert fitting(drawing, text) == indices, text
        if kind == "one":
            assert len(indices) == 1
        if kind == "count":
            number = "two" if "both" in text else next(n for n in NUMBERS if n in text.split())
            assert NUMBERS.index(number) == len(indices), text


def test_exceptions_leave_out_one(drawings, fitting) -> None:
    said = list(grouped(drawings, "except"))
    assert len(said) > 100
    for drawing, text, indices in said:
        whole, left_out = EXCEPT.split(text, maxsplit=1)
        assert fitting(drawing, whole) - fitting(drawing, left_out) == indices, text
        assert len(fitting(drawing, left_out)) == 1


def test_unions_hold_both_sides(drawings, fitting) -> None:
    said = list(grouped(drawings, "union"))
    assert len(said) > 200
    checked = 0
    for drawing, text, indices in said:
        sides = AND.split(text)
        if len(sides) == 2:
            checked += 1
            assert fitting(drawing, sides[0]) | fitting(drawing, sides[1]) == indices, text
    assert checked > 0.6 * len(said)


def test_nothing_fits_a_phrase_without_target(drawings, fitting) -> None:
    said = list(grouped(drawings, "none"))
    assert len(said) > 200
    for drawing, text, indices in said:
        assert not indices
        assert RELATION.search(text) or not fitting(drawing, text), text


def test_relations_hold_for_all_of_a_group(drawings, fitting, box) -> None:
    sides = {"left": (0, 1), "right": (0, -1), "above": (1, 1), "below": (1, -1)}
    words = {w: sides[name] for name in sides for w in RELATION_WORDS[name]}
    said = list(grouped(drawings, "relation"))
    assert len(said) > 200
    for drawing, text, indices in said:
        place = next(w for w in sorted(words, key=len, reverse=True) if f" {w} " in text)
        head, _, other = text.partition(f" {place} ")
        (anchor,) = fitting(drawing, other)
        axis, sign = words[place]
        for one in fitting(drawing, head) - {anchor}:
            centers = (box(drawing, i)[axis] + box(drawing, i)[axis + 2] for i in (anchor, one))
            apart = sign * (next(centers) - next(centers)) / 2
            assert (apart > 0.03) == (one in indices), text


def test_training_never_hears_of_a_held_out_pair_as_absent(seen, viewed) -> None:
    one = seen(0, (0, 0, 0.3, 0.3), "lamp")
    for split, hears in (("train", False), ("val", False), ("test", True)):
        heads = [absent_description(viewed(one, split=split), random.Random(i)) for i in range(400)]
        pairs = {(head.color, head.category) for head in heads}
        assert HELD_OUT_PAIRS.isdisjoint(pairs) is not hears
