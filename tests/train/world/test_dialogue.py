from __future__ import annotations

import re
from collections import Counter

import pytest

from saymask.runtime.errors import UsageError
from saymask.train.world import relations
from saymask.train.world.dialogue import FOLLOW_WEIGHTS, converse
from saymask.train.world.expression import Turn
from saymask.train.world.sight import look
from saymask.train.world.templates import RELATION_WORDS
from saymask.train.world.truth import mask_of

ROUNDS = 6
WORDS = {words: name for name, each in RELATION_WORDS.items() for words in each}
PLACE = re.compile(rf"\b({'|'.join(sorted(WORDS, key=len, reverse=True))})\b")


@pytest.fixture(scope="module")
def dialogues(drawings) -> list:
    scenes = [drawing for each in drawings.values() for drawing in each]
    return [(drawing, converse(drawing, seed=3, rounds=ROUNDS)) for drawing in scenes]


def test_every_round_has_one_visible_target_and_few_come_back(dialogues) -> None:
    for drawing, dialogue in dialogues:
        targets = [turn.expression.targets for turn in dialogue.turns]
        assert all(len(each) == 1 for each in targets)
        again = [turn.expression.targets for turn in dialogue.turns if _is_again(turn)]
        assert len(set(targets)) == len(targets) - len(again)
        assert len(set(again)) == len(again)
        assert all(turn.relation == "positional" for turn in dialogue.turns if _is_again(turn))
        assert all(mask_of(drawing, each).any() for each in targets)
        assert all(turn.expression.answer == "{seg}" for turn in dialogue.turns)


def test_references_are_the_targets_of_earlier_rounds(dialogues) -> None:
    for _, dialogue in dialogues:
        for number, turn in enumerate(dialogue.turns, start=1):
            assert all(1 <= earlier < number for earlier in turn.refers_to)
            expected = tuple(dialogue.turns[i - 1].expression.targets[0] for i in turn.refers_to)
            assert turn.expression.references == expected
            assert bool(turn.refers_to) == (turn.relation != "first")
            assert turn.expression.kind == turn.relation


def test_all_relations_occur_and_most_rounds_look_back(dialogues) -> None:
    counts = Counter(turn.relation for _, dialogue in dialogues for turn in dialogue.turns)
    assert counts.keys() == {"first", *FOLLOW_WEIGHTS}
    assert counts["first"] < 0.4 * counts.total()
    assert all(dialogue.turns[0].relation == "first" for _, dialogue in dialogues)


def test_rounds_mean_what_they_say(dialogues, fitting) -> None:
    for drawing, dialogue in dialogues:
        things = drawing.scene.objects
        for turn in dialogue.turns:
            if not turn.refers_to:
                continue
            (target,), (before,) = turn.expression.targets, turn.expression.references
            one, other = things[target.object_index], things[before.object_index]
            if turn.relation == "hierarchical":
                assert one is other
                assert (target.part is None) != (before.part is None)
            elif turn.relation == "other":
                group = fitting(drawing, other.category)
                assert group == {target.object_index, before.object_index}
            elif turn.relation == "attribute":
                group = fitting(drawing, other.color)
                assert group == {target.object_index, before.object_index}
            elif turn.relation == "interactional":
                is_stacked = before.object_index == one.supporter
                is_stacked |= target.object_index == other.supporter
                pair = target.object_index, before.object_index
                assert is_stacked or drawing.hidden_px[pair] or drawing.hidden_px[pair[::-1]]


def test_a_place_is_that_of_one_visible_object_alone(dialogues, fitting) -> None:
    heard = Counter()
    for drawing, dialogue in dialogues:
        view = look(drawing)
        seen = {one.index: one for one in view.seen}
        for turn in dialogue.turns:
            if turn.relation != "positional":
                continue
            (target,), (before,) = turn.expression.targets, turn.expression.references
            relation, head = _place(turn)
            heard[relation] += 1
            verdicts = {
                index: relations.holds(view, relation, seen[index], seen[before.object_index])
                for index in fitting(drawing, head)
            }
            assert verdicts.pop(target.object_index) is True, turn.expression.text
            assert set(verdicts.values()) <= {False}, turn.expression.text
    assert heard.keys() == set(relations.RELATIONS) - {"on", "under", "front", "behind"}


def test_a_corner_lies_past_both_sides(dialogues, box) -> None:
    for drawing, dialogue in dialogues:
        for turn in dialogue.turns:
            relation = _place(turn)[0] if turn.relation == "positional" else ""
            if "-" not in relation:
                continue
            (target,), (before,) = turn.expression.targets, turn.expression.references
            left, top, right, bottom = box(drawing, target.object_index)
            left2, top2, right2, bottom2 = box(drawing, before.object_index)
            assert ("top" in relation) == (top + bottom < top2 + bottom2)
            assert ("left" in relation) == (left + right < left2 + right2)


def _is_again(turn: Turn) -> bool:
    return turn.expression.targets == turn.expression.references


def _place(turn: Turn) -> tuple[str, str]:
    """Return the relation that a positional round names and the words before it."""
    if _is_again(turn):
        return "same", turn.expression.text
    head, words, _ = PLACE.split(turn.expression.text, maxsplit=1)
    return WORDS[words], head


def test_a_conversation_repeats_and_another_seed_gives_another(drawings) -> None:
    drawing = drawings["val"][0]
    first, again, other = (converse(drawing, seed=seed, rounds=4) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(first.turns) == 4


def test_a_conversation_needs_a_round(drawings) -> None:
    with pytest.raises(UsageError, match="at least 1, got 0"):
        converse(drawings["val"][0], seed=0, rounds=0)
