from __future__ import annotations

from collections import Counter

import pytest

from saymask.runtime.errors import UsageError
from saymask.train.world.dialogue import FOLLOW_WEIGHTS, converse
from saymask.train.world.truth import mask_of

ROUNDS = 6


@pytest.fixture(scope="module")
def dialogues(drawings) -> list:
    scenes = [drawing for each in drawings.values() for drawing in each]
    return [(drawing, converse(drawing, seed=3, rounds=ROUNDS)) for drawing in scenes]


def test_every_round_has_one_new_visible_target(dialogues) -> None:
    for drawing, dialogue in dialogues:
        targets = [turn.expression.targets for turn in dialogue.turns]
        assert all(len(each) == 1 for each in targets)
        assert len(set(targets)) == len(targets)
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


def test_a_conversation_repeats_and_another_seed_gives_another(drawings) -> None:
    drawing = drawings["val"][0]
    first, again, other = (converse(drawing, seed=seed, rounds=4) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(first.turns) == 4


def test_a_conversation_needs_a_round(drawings) -> None:
    with pytest.raises(UsageError, match="at least 1, got 0"):
        converse(drawings["val"][0], seed=0, rounds=0)
