from __future__ import annotations

import numpy as np
import pytest
import torch

from saymask.runtime.systems.sam4mllm_text import parse_boxes, parse_groups
from saymask.train.packing import TRUNK, Turn
from saymask.train.talk import NEGATIVE, POSITIVE, Talk, TalkMix

GRID_HW = (8, 10)


@pytest.fixture(scope="module")
def talk(cache, boxes, sayings, tokens) -> Talk:
    return Talk(cache, boxes, sayings, tokens, GRID_HW)


@pytest.fixture(scope="module")
def spoken(talk, tokens):
    """Draw turns of one kind; give each with its question and what the model writes."""

    def spoken(kind: str, count: int = 12) -> list[tuple[int, Turn, str, str]]:
        decode = tokens._tokenizer.decode
        rows, rng = [], np.random.default_rng(1)
        mix = TalkMix(shares={kind: 1.0})
        for scene in range(count):
            one = talk.turns(scene, rng, mix, tokens=1)[0]
            ids = np.array(one.ids)
            is_answer = np.array(one.is_answer)
            rows.append((scene, one, decode(ids[~is_answer]), decode(ids[is_answer])))
        return rows

    return spoken


def test_turns_fill_a_row_and_are_seeded(talk):
    drawn = [
        talk.turns(3, np.random.default_rng(seed), TalkMix(), tokens=300) for seed in (1, 1, 2)
    ]
    assert [one.ids for one in drawn[0]] == [one.ids for one in drawn[1]]
    assert [one.ids for one in drawn[0]] != [one.ids for one in drawn[2]]
    assert sum(len(one.ids) for one in drawn[0]) >= 300
    assert sum(len(one.ids) for one in drawn[0][:-1]) < 300


@pytest.mark.parametrize("kind", ["single", "part", "semantic"])
def test_boxes_are_those_of_the_phrase(spoken, cache, talk, kind):
    for scene, one, question, answer in spoken(kind):
        text = question.split('"')[1]
        assert text in {said.removeprefix("[semantic] ") for said in cache.phrases.texts} | set(
            cache.phrases.texts
        )
        found = parse_boxes(answer).boxes_xyxy
        assert len(found), answer
        known = 1000 * talk.boxes[scene].reshape(-1, 4)
        for box in found:
            assert np.abs(known - box).max(1).min() <= 1, "a box of the scene"
        assert (np.diff(found[:, 0]) >= 0).all(), "from left to right"
        assert len(one.looks) == 4 * len(found)
        assert len(one.boxes) == (len(found) == 1)


def test_a_scene_without_such_a_phrase_is_asked_about_otherwise(cache, boxes, tokens, monkeypatch):
    talk = Talk(cache, boxes, (), tokens, GRID_HW)
    for task in ("single", "semantic"):
        monkeypatch.delitem(talk._phrases, (0, task))
    parts = {cache.phrases.texts[row] for row in talk._phrases[0, "part"]}
    text, masks, _ = talk._phrase(0, "single", np.random.default_rng(0))
    assert text in parts
    assert masks.any()


def test_the_model_looks_at_what_the_box_holds(spoken):
    for _, one, _, answer in spoken("single"):
        left, top, right, bottom = parse_boxes(answer).boxes_xyxy[0] / 1000
        for _, share in one.looks:
            rows, columns = np.nonzero(share.reshape(GRID_HW))
            assert share.sum() == pytest.approx(1)
            assert rows.min() >= int(top * 8 + 1e-3)
            assert rows.max() <= bottom * 8
            assert columns.min() >= int(left * 10 + 1e-3)
            assert columns.max() <= right * 10


def test_what_another_scene_shows_is_not_found(spoken):
    answers = [answer for *_, answer in spoken("absent", 24)]
    assert sum(answer == "No object found." for answer in answers) > 16


def test_points_are_asked_in_a_row_or_one_by_one(spoken, cache, tokens):
    rows = [row for row in spoken("points", 24) if "Check" in row[2]]
    kinds = {max(one.branch) > TRUNK for _, one, *_ in rows}
    assert kinds == {True, False}
    for _, one, question, answer in rows:
        verdicts = answer[answer.index("]") + 1 :]
        assert set(verdicts.replace("Yes", "y").replace("No", "n")) <= {"y", "n"}
        points = question[question.rindex("]") :].count("(")
        assert points == verdicts.count("Yes") + verdicts.count("No") == len(one.looks) - 4
        branches = np.array(one.branch)
        places = np.array(one.place)
        starts = {places[branches == branch].min() for branch in set(branches) - {TRUNK}}
        assert starts <= {places[branches == TRUNK].max() + 1}


def test_a_point_looks_at_its_own_patch(spoken, tokens):
    decode = tokens._tokenizer.decode
    for _, one, _, _ in spoken("points", 24):
        for at, share in one.looks[4:]:
            before = decode([one.ids[i] for i in range(at) if one.branch[i] in (0, one.branch[at])])
            if max(one.branch) > TRUNK:
                x, y = map(int, before[before.rindex("(") + 1 : before.rindex(")")].split(","))
                assert share.argmax() == y * 8 // 1000 * 10 + x * 10 // 1000
            assert share.sum() == 1


def test_groups_of_points_lie_on_and_off_the_object(spoken, cache):
    for scene, _, question, answer in spoken("groups"):
        if "prompt points" not in question:
            continue
        for each in parse_groups(answer).objects:
            (group,) = each.groups
            assert group.labels.tolist() == [1] * POSITIVE + [0] * NEGATIVE
            x, y = (group.points_xy * [160, 120] // 1000).T
            seen = cache.instance_map[scene][y, x]
            assert seen[0] == seen[1] > 0


def test_words_answer_questions(spoken, sayings):
    known = {(one.text, one.answer) for one in sayings}
    for _, _, question, answer in spoken("words"):
        assert (question.strip().removesuffix("assistant").strip(), answer) in known


def test_groups_of_objects_may_be_empty(spoken):
    counts = {len(parse_boxes(answer).boxes_xyxy) for *_, answer in spoken("multi", 24)}
    assert 0 in counts
    assert max(counts) > 1


def test_without_sayings_phrases_take_their_place(cache, boxes, tokens):
    bare = Talk(cache, boxes, (), tokens, GRID_HW)
    mix = TalkMix(shares={"words": 0.5, "multi": 0.5})
    one, *_ = bare.turns(0, np.random.default_rng(0), mix, tokens=1)
    assert len(one.looks) == 4


def test_shares_add_up_to_one():
    assert torch.tensor(list(TalkMix().shares.values())).sum() == pytest.approx(1)
