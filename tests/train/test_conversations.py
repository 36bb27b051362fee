import re
from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.systems.sam4mllm_text import (
    NO,
    NOTHING,
    STOP,
    YES,
    parse_boxes,
    parse_groups,
    to_pixels,
    to_thousandths,
)
from saymask.train.conversations import ConversationRecipe, Conversations
from saymask.train.packing import TRUNK, Turn
from saymask.train.points import RANDOM_POINTS, is_inside
from saymask.train.requests import requests_by_scene, thing_mask

ALL = {"single": 0.4, "part": 0.2, "multi": 0.2, "vqa": 0.2}


@pytest.fixture(scope="module")
def requests(cache, sayings):
    return requests_by_scene(cache, sayings, tasks=ALL, scenes=24)


@pytest.fixture(scope="module")
def talk(cache, requests, boxes, tokens):
    """Makes conversations by a changed recipe."""

    def make(groups=None, **changes) -> Conversations:
        recipe = ConversationRecipe(mix=ALL, **changes)
        return Conversations(cache, requests, boxes, groups or {}, tokens, recipe)

    return make


@pytest.fixture(scope="module")
def read(tokens):
    """Reads tokens of a turn as text."""
    return lambda ids: tokens._tokenizer.decode(list(ids), skip_special_tokens=False)


def whole(turn: Turn, read) -> str:
    return read(turn.ids)


def written(turn: Turn, read, branch: int = TRUNK) -> list[str]:
    """What the model writes on a branch, answer by answer."""
    rows = zip(turn.ids, turn.is_answer, turn.branch, strict=True)
    ids = [each for each, is_answer, of in rows if is_answer and of == branch]
    return read(ids).split(STOP)[:-1]


def drawn(conversations: Conversations, seeds=range(3)):
    for scene in conversations.scenes:
        for seed in seeds:
            yield from (
                (int(scene), turn)
                for turn in conversations.about(int(scene), np.random.default_rng((scene, seed)))
            )


def find(requests, scene: int, text: str):
    """Return the request whose words stand in a question."""
    return max(
        (each for each in requests[scene] if f'"{each.text}".' in text or each.text in text),
        key=lambda each: len(each.text),
    )


def test_the_same_seed_says_the_same(talk):
    conversations = talk()
    first, again, other = (
        [turn.ids for turn in conversations.about(3, np.random.default_rng(seed))]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert len(first) == conversations.recipe.requests


def test_boxes_are_those_of_what_is_meant(talk, requests, boxes, read):
    counts = set()
    for scene, turn in drawn(talk()):
        text = whole(turn, read)
        request = find(requests, scene, text)
        if request.task == "vqa":
            assert written(turn, read) == [request.answer]
            continue
        answer = written(turn, read)[0]
        found = parse_boxes(answer).boxes_xyxy
        truth = [to_thousandths(boxes[scene][thing], (1, 1)) for thing in request.things]
        assert sorted(map(tuple, found)) == sorted(map(tuple, truth))
        assert (found[:-1, 0] <= found[1:, 0]).all(), "from left to right"
        assert (answer == NOTHING) == (not request.things)
        count = text.split("describes (")[1].split(")")[0]
        counts.add((count, min(len(found), 2)))
    assert counts == {("0+", 0), ("1", 1), ("0+", 1), ("1+", 2), ("0+", 2)}


@pytest.mark.parametrize("listed", [0.0, 1.0])
def test_points_are_answered_by_the_mask(talk, cache, requests, boxes, read, listed):
    answers = []
    for scene, turn in drawn(talk(listed=listed), seeds=(0,)):
        text = whole(turn, read)
        if "Check if" not in text:
            continue
        request = find(requests, scene, text)
        box, _, rest = text.split("coordinates ")[1].partition(":\n")
        asked = parse_boxes(box).boxes_xyxy[0]
        (thing,) = (
            each for each in request.things
            if (to_thousandths(boxes[scene][each], (1, 1)) == asked).all()
        )  # fmt: skip
        mask_hw = thing_mask(cache, scene, thing)
        points = np.array(re.findall(r"\((\d{3}),(\d{3})\)", rest), int)
        labels = is_inside(mask_hw, to_pixels(points, mask_hw.shape))
        if listed:
            said = written(turn, read)[1]
        else:
            said = "".join(written(turn, read, branch)[0] for branch in range(1, RANDOM_POINTS + 1))
        assert said == "".join(YES if label else NO for label in labels)
        side = asked[2:] - asked[:2]
        assert (points >= asked[:2] - 0.1 * side - 1).all()
        assert (points <= asked[2:] + 0.1 * side + 1).all()
        answers += labels.tolist()
    assert 0.2 < np.mean(answers) < 0.8
    assert len(answers) > 300


@pytest.fixture(scope="module")
def groups(requests):
    """Two groups for each thing of the first scenes."""
    things = {(scene, each) for scene in range(8) for one in requests[scene] for each in one.things}
    rng = np.random.default_rng(0)
    return {thing: rng.integers(1000, size=(2, 3, 2)) for thing in things}


def test_groups_are_written_for_what_has_some(talk, requests, groups, read):
    protocol = replace(ConversationRecipe().protocol, variant="ppg")
    conversations = talk(groups, protocol=protocol)
    several = 0
    for scene, turn in drawn(conversations):
        text = whole(turn, read)
        request = find(requests, scene, text)
        if request.task == "vqa":
            continue
        (answer,) = written(turn, read)
        objects = parse_groups(answer).objects
        assert len(objects) == len(request.things)
        several += len(objects) > 1
        known = [groups[scene, each].tolist() for each in request.things]
        for one in objects:
            (group,) = one.groups
            assert group.labels.tolist() == [1, 1, 0]
            assert any(group.points_xy.tolist() in choices for choices in known)
    assert several


def test_scenes_without_groups_have_words_alone(talk, groups):
    protocol = replace(ConversationRecipe().protocol, variant="ppg")
    conversations = talk(groups, protocol=protocol)
    left = {each.task for each in conversations._requests[9] if each.things}
    assert not left
    assert len(talk().scenes) == 24


def test_crowds_are_left_out(talk):
    conversations = talk(most_boxes=1)
    assert max(len(each.things) for of in conversations._requests for each in of) == 1


def test_tasks_have_their_shares(talk, requests, read):
    conversations = talk(requests=1)
    turns = list(drawn(conversations, seeds=range(30)))
    words = sum("Please provide" not in whole(turn, read) for _, turn in turns)
    assert words / len(turns) == pytest.approx(0.2, abs=0.04)
