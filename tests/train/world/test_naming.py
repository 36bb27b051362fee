from __future__ import annotations

import random
import re

import numpy as np
import pytest

from saymask.train.world.catalogue import HELD_OUT_PAIRS
from saymask.train.world.naming import NAMERS, carried, name_one, shortest_name
from saymask.train.world.sight import look
from saymask.train.world.templates import ORDINALS, RELATION_WORDS

SPLITS = ("train", "val", "test")
WORDS = {words: name for name, each in RELATION_WORDS.items() for words in each}
RELATION = re.compile("|".join(rf"\b{words}\b" for words in sorted(WORDS, key=len, reverse=True)))
NEAREST = re.compile(r"nearest|closest|least distance")
SIDE = re.compile(r"\b(left|right|top|bottom)(?:most)?\b")
MARGIN = 0.031


def named(drawings, kind: str):
    """Yield every way to name one object of many scenes: drawing, phrase in both forms, target."""
    for split in SPLITS:
        for drawing in drawings[split]:
            view = look(drawing)
            found = NAMERS[kind](view, random.Random(drawing.scene.seed)) if view.clear else None
            if found:
                yield drawing, found.text, found.one.index
                yield drawing, found.definite, found.one.index


@pytest.mark.parametrize("kind", ["category", "attribute"])
def test_traits_fit_the_target_alone(kind: str, drawings, fitting) -> None:
    said = list(named(drawings, kind))
    assert len(said) > 400
    for drawing, text, target in said:
        assert fitting(drawing, text) == {target}, text


def test_relations_fit_the_target_alone(drawings, fitting, box) -> None:
    said = list(named(drawings, "relation"))
    assert len(said) > 400
    for drawing, text, target in said:
        relation, head, other = taken_apart(text)
        (anchor,) = fitting(drawing, other)
        rivals = fitting(drawing, head) - {anchor}
        scores = {one: score_of(drawing, box, relation, one, anchor) for one in rivals}
        others = [score for one, score in scores.items() if one != target]
        assert scores[target] > MARGIN, text
        least = scores[target] if relation == "nearest" else MARGIN
        assert all(score < least for score in others), text


def taken_apart(text: str) -> tuple[str, str, str]:
    """Return the relation, what is meant and what it is compared with."""
    if NEAREST.search(text):
        head, _, other = text.rpartition("the ")
        return "nearest", head, other
    place = RELATION.search(text)
    assert place, text
    return WORDS[place.group()], text[: place.start()], text[place.end() :]


def score_of(drawing, box, relation: str, one: int, anchor: int) -> float:
    """Say how much `one` is `relation` `anchor`, from the pixels and the composition."""
    (x, y), (x2, y2) = ((box(drawing, i)[:2] + box(drawing, i)[2:]) / 2 for i in (one, anchor))
    things = drawing.scene.objects
    if relation == "nearest":
        return 10 - float(np.hypot(x - x2, y - y2))
    if relation == "near":
        apart = np.maximum(box(drawing, one)[:2] - box(drawing, anchor)[2:],
                           box(drawing, anchor)[:2] - box(drawing, one)[2:])  # fmt: skip
        return 0.1 - float(np.linalg.norm(np.maximum(apart, 0)))
    scores = {
        "left": x2 - x,
        "right": x - x2,
        "above": y2 - y,
        "below": y - y2,
        "on": things[one].supporter == anchor,
        "under": things[anchor].supporter == one,
        "front": drawing.hidden_px[one, anchor] > 0,
        "behind": drawing.hidden_px[anchor, one] > 0,
    }
    return float(scores[relation])


def test_places_fit_the_target_alone(drawings, fitting, box) -> None:
    said = list(named(drawings, "absolute"))
    assert len(said) > 400
    for drawing, text, target in said:
        rivals = sorted(fitting(drawing, re.sub("biggest|largest|smallest", "", text)))
        assert len(rivals) > 1, text
        if re.search("biggest|largest|smallest", text):
            sign = 1 if "smallest" in text else -1
            ranked = sorted(rivals, key=lambda one: sign * drawing.full_px[one])
            rank = 0
        else:
            side = "top" if "highest" in text else "bottom" if "lowest" in text else ""
            side = side or SIDE.search(text).group(1)
            axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[side]
            place = lambda one: sign * (box(drawing, one)[axis] + box(drawing, one)[axis + 2])  # noqa: E731, B023
            ranked = sorted(rivals, key=place)
            rank = next((ORDINALS.index(word) for word in ORDINALS if word in text.split()), 0)
        assert ranked[rank] == target, text


def test_kinds_are_mixed_as_intended(drawings) -> None:
    kinds = []
    for drawing in drawings["train"]:
        rng = random.Random(drawing.scene.seed)
        kinds += [found.kind for _ in range(4) if (found := name_one(look(drawing), rng))]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in NAMERS}
    assert 0.38 < shares["attribute"] < 0.56
    assert 0.13 < shares["category"] < 0.27
    assert 0.13 < shares["relation"] < 0.27
    assert 0.09 < shares["absolute"] < 0.22


def test_the_shortest_name_is_true_and_may_insist_on_the_noun(drawings, fitting) -> None:
    rng = random.Random(0)
    for drawing in drawings["val"]:
        view = look(drawing)
        for one in view.clear:
            name = shortest_name(view, rng, one)
            assert name is None or fitting(drawing, name) == {one.index}
            name = shortest_name(view, rng, one, says_category=True)
            assert name is None or one.thing.category in name


def test_requests_carry_the_shortest_form(viewed, seen) -> None:
    view = viewed(seen(0, (0, 0, 0.5, 0.5)))
    said = {carried(view, random.Random(i), "just a mug", "the mug") for i in range(99)}
    assert "just a mug" in said
    assert all(text == "just a mug" or "the mug" in text for text in said)
    assert len(said) > 10


def test_training_never_names_a_pair_that_is_held_out(drawings) -> None:
    for drawing in drawings["train"]:
        pairs = {(thing.color, thing.category) for thing in drawing.scene.objects}
        assert HELD_OUT_PAIRS.isdisjoint(pairs)
