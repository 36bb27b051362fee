from __future__ import annotations

import numpy as np
import pytest

from saymask.runtime.systems.sam4mllm_text import Piece, opening, turn
from saymask.train.losses import IGNORED
from saymask.train.packing import PADDING, TRUNK, Turn, pack


def _say(text: str, *, is_answer: bool = False, is_template: bool = False) -> Piece:
    return Piece(text=text, is_template=is_template, is_answer=is_answer)


@pytest.fixture(scope="module")
def branched(tokens) -> Turn:
    made = Turn()
    made.add(tokens, [_say("the"), _say("012", is_answer=True)])
    made.add(tokens, [_say("("), _say("Yes", is_answer=True)], branch=1)
    made.add(tokens, [_say("("), _say("No", is_answer=True)], branch=2)
    return made


def test_a_turn_knows_what_the_model_writes(tokens):
    made = Turn()
    written = made.add(tokens, turn("the mug", "[001,002,003,004]", is_first=True))
    assert [made.ids[at] for at in written] == [
        *tokens.encode(_say("[001,002,003,004]")),
        *tokens.encode(_say("<|eot_id|>", is_template=True)),
    ]
    assert np.flatnonzero(made.is_answer).tolist() == written
    assert made.place == list(range(len(made.ids)))
    assert set(made.branch) == {TRUNK}


def test_branches_go_on_where_the_trunk_ended(branched):
    assert branched.branch == [0, 0, 1, 1, 2, 2]
    assert branched.place == [0, 1, 2, 3, 2, 3]


def test_labels_follow_the_own_branch(tokens, branched):
    branched.looks = [(3, np.ones(4) / 4), (1, np.eye(4)[2])]
    branched.boxes = [1]
    packed = pack([[], [branched, branched]], width=16, patches=4)
    _, number, _, yes, _, no = branched.ids
    wanted = [number, IGNORED, yes, IGNORED, no, IGNORED]
    assert (packed.labels[0] == IGNORED).all()
    assert packed.labels[1].tolist() == [*wanted, *wanted, *[IGNORED] * 4]
    assert packed.turn[1].tolist() == [*[0] * 6, *[1] * 6, *[PADDING] * 4]
    assert packed.place[1].tolist() == [*branched.place, *branched.place, *[0] * 4]
    assert packed.looking.tolist() == [16 + 2, 16 + 0, 16 + 8, 16 + 6]
    np.testing.assert_array_equal(packed.looks[1], [0, 0, 1, 0])
    assert packed.boxes.tolist() == [16 + 0, 16 + 6]


def test_the_first_word_of_a_branch_follows_the_trunk(tokens):
    made = Turn()
    made.add(tokens, [_say("the")])
    for branch, answer in enumerate(("Yes", "No"), start=1):
        made.add(tokens, [_say(answer, is_answer=True)], branch=branch)
    labels = pack([[made]], width=3, patches=1).labels[0]
    assert labels[0] == made.ids[2], "one place has one label; ask something in each branch"


def test_turns_that_do_not_fit_are_left_out(branched):
    packed = pack([[branched, branched, branched]], width=14, patches=1)
    assert packed.turn.max() == 1
    assert pack([[branched]], width=5, patches=1).turn.max() == PADDING


def test_every_number_is_a_token(tokens):
    ids = tokens.number_ids()
    assert len(set(ids.tolist())) == 1000
    assert tokens.encode(_say("042")) == [ids[42]]


def test_control_tokens_are_meant_in_templates(tokens):
    begin, _ = opening("You see.")
    ids = tokens.encode(begin)
    assert ids == tokens.encode(begin)
    assert ids[0] == tokens.encode(_say("<|begin_of_text|>", is_template=True))[0]
