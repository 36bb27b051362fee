from __future__ import annotations

import random

import pytest

from saymask.train.world.catalogue import SIZES
from saymask.train.world.referring import REFERRERS
from saymask.train.world.sight import look
from saymask.train.world.templates import REFERENCE, RELATION_WORDS

TRAITS = {"color": "color", "kind": "category", "class": "category", "type": "category"}
TRAITS["pattern"] = "pattern"


def referred(drawings, way: str):
    """Yield phrases of one way in many scenes: drawing, expression, indices, reference indices."""
    for scenes in drawings.values():
        for drawing in scenes:
            view = look(drawing)
            found = REFERRERS[way](view, random.Random(drawing.scene.seed)) if view.clear else None
            if found:
                targets = {target.object_index for target in found.targets}
                refs = [target.object_index for target in found.references]
                assert found.task == "reference"
                assert found.text.count(REFERENCE) == len(refs), found.text
                yield drawing, found, targets, refs


def shown(drawing) -> set[int]:
    return {i for i in range(len(drawing.scene.objects)) if drawing.visible_px[i]}


@pytest.mark.parametrize("way", ["trait", "two"])
def test_shared_traits_are_shared_by_the_others(way: str, drawings) -> None:
    said = list(referred(drawings, way))
    assert len(said) > 100
    assert {not targets for _, _, targets, _ in said} == {True, False}
    for drawing, found, targets, refs in said:
        trait = TRAITS[next(word for word in TRAITS if word in found.text.split())]
        things = drawing.scene.objects
        wanted = {getattr(things[ref], trait) for ref in refs}
        others = shown(drawing) - set(refs)
        assert targets == {i for i in others if getattr(things[i], trait) in wanted}, found.text


def test_others_are_the_rest_of_the_category(drawings, fitting) -> None:
    said = list(referred(drawings, "other"))
    assert len(said) > 100
    for drawing, found, targets, refs in said:
        assert targets == fitting(drawing, found.text) - set(refs), found.text
        assert len(targets) == 1 or not found.text.startswith("the other pair")


def test_sizes_compare_with_the_reference(drawings, fitting) -> None:
    said = list(referred(drawings, "size"))
    assert len(said) > 40
    for drawing, found, targets, refs in said:
        things = drawing.scene.objects
        sign = -1 if "smaller" in found.text else 1
        larger = {
            i
            for i in fitting(drawing, found.text) - set(refs)
            if sign * (SIZES[things[i].size] - SIZES[things[refs[0]].size]) > 0
        }
        assert targets == larger, found.text


def test_parts_belong_to_the_reference(drawings) -> None:
    for _, found, targets, refs in referred(drawings, "part"):
        assert targets == set(refs)
        assert found.targets[0].part in found.text


def test_relations_start_from_the_reference(drawings, fitting, box) -> None:
    sides = {"left": (0, 1), "right": (0, -1), "above": (1, 1), "below": (1, -1)}
    words = {w: sides[name] for name in sides for w in RELATION_WORDS[name]}
    checked = 0
    for drawing, found, targets, refs in referred(drawings, "relation"):
        place = next(
            (w for w in sorted(words, key=len, reverse=True) if f" {w} <" in found.text), None
        )
        if place is None:
            continue
        checked += 1
        axis, sign = words[place]
        for one in fitting(drawing, found.text) - set(refs):
            centers = (box(drawing, i)[axis] + box(drawing, i)[axis + 2] for i in (refs[0], one))
            apart = sign * (next(centers) - next(centers)) / 2
            assert (apart > 0.03) == (one in targets), found.text
    assert checked > 60
