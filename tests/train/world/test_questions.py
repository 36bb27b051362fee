from __future__ import annotations

import random
import re

import pytest

from saymask.train.world.catalogue import CATEGORIES, COLORS
from saymask.train.world.expression import SEG
from saymask.train.world.questions import ARGUABLE_USES, IMPLICIT_ASKERS, VQA_ASKERS
from saymask.train.world.sight import look
from saymask.train.world.templates import NUMBERS

USES = {use for category in CATEGORIES.values() for use in category.functions}


def asked(drawings, askers, way: str):
    """Yield questions of one way in many scenes: drawing and expression."""
    for scenes in drawings.values():
        for drawing in scenes:
            view = look(drawing)
            found = askers[way](view, random.Random(drawing.scene.seed)) if view.clear else None
            if found:
                assert found.text[0].isupper()
                assert found.text[-1] in "?."
                yield drawing, found


def serving(drawing, use: str) -> set[int]:
    return {
        i
        for i, thing in enumerate(drawing.scene.objects)
        if drawing.visible_px[i] and use in CATEGORIES[thing.category].functions
    }


def uses_in(text: str) -> list[str]:
    """Return the functions that a question names; "eat soup with" does not also say "eat"."""
    found = []
    for use in sorted(USES, key=len, reverse=True):
        text, count = re.subn(rf"\b{use}\b", "", text)
        found += [use] * bool(count)
    return found


def test_arguable_uses_speak_of_the_catalogue() -> None:
    for use, categories in ARGUABLE_USES.items():
        assert use in USES
        for category in categories:
            assert use not in CATEGORIES[category].functions


@pytest.mark.parametrize("way", IMPLICIT_ASKERS)
def test_answers_mark_every_target(way: str, drawings) -> None:
    questions = list(asked(drawings, IMPLICIT_ASKERS, way))
    assert len(questions) > 60
    for drawing, found in questions:
        assert found.answer.count(SEG) == len(found.targets) > 0
        named = found.answer.split(SEG)[:-1]
        for words, target in zip(named, found.targets, strict=True):
            category = drawing.scene.objects[target.object_index].category
            assert words.rstrip().endswith(target.part or category), found.answer


@pytest.mark.parametrize("way", ["object", "two", "object and part", "part by use"])
def test_questions_of_use_mean_all_that_serve(way: str, drawings) -> None:
    for drawing, found in asked(drawings, IMPLICIT_ASKERS, way):
        text = re.sub(r"\bon (?:it|the thing|what|something|whatever|anything)\b", "", found.text)
        meant = {target.object_index for target in found.targets}
        candidates = [serving(drawing, use) for use in uses_in(text)]
        assert meant in (candidates if way != "two" else [set().union(*candidates)]), found.text


@pytest.mark.parametrize("way", ["part", "part by use", "object and part"])
def test_parts_do_what_was_asked(way: str, drawings) -> None:
    for drawing, found in asked(drawings, IMPLICIT_ASKERS, way):
        for target in found.targets:
            if target.part:
                category = CATEGORIES[drawing.scene.objects[target.object_index].category]
                (part,) = (part for part in category.parts if part.name == target.part)
                assert any(re.search(rf"\bparts? {use}", found.text) for use in part.functions), (
                    found.text
                )


def test_counts_are_right(drawings, fitting) -> None:
    questions = list(asked(drawings, VQA_ASKERS, "count"))
    assert {found.answer for _, found in questions} >= {"none", "one", "two", "three"}
    for drawing, found in questions:
        assert NUMBERS.index(found.answer) == len(fitting(drawing, found.text)), found.text


def test_colors_are_right_and_not_given_away(drawings, fitting) -> None:
    questions = list(asked(drawings, VQA_ASKERS, "color"))
    assert {found.answer for _, found in questions} == set(COLORS)
    for drawing, found in questions:
        (one,) = fitting(drawing, found.text)
        assert found.answer == drawing.scene.objects[one].color
        assert found.answer not in found.text


def test_what_is_there_is_there(drawings, fitting) -> None:
    questions = list(asked(drawings, VQA_ASKERS, "any"))
    share = sum(found.answer == "yes" for _, found in questions) / len(questions)
    assert 0.35 < share < 0.65
    for drawing, found in questions:
        assert (found.answer == "yes") == bool(fitting(drawing, found.text)), found.text


def test_related_questions_are_answered_both_ways(drawings) -> None:
    questions = list(asked(drawings, VQA_ASKERS, "related"))
    share = sum(found.answer == "yes" for _, found in questions) / len(questions)
    assert 0.1 < share < 0.9
    assert all(not found.targets for _, found in questions)
