"""Answers are read where they are plain and refused with a reason where they are not."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from saymask.runtime.systems.sam4mllm_text import (
    IMAGE,
    ObjectPrompt,
    PointGroup,
    box_answer,
    box_question,
    chat,
    group_answer,
    group_question,
    opening,
    parse_boxes,
    parse_groups,
    points_answer,
    points_question,
    to_pixels,
    to_thousandths,
    turn,
)

BIRD = np.array([281, 251, 863, 999])


def group(*points: tuple[int, int, int]) -> PointGroup:
    table = np.array(points, np.int64)
    return PointGroup(points_xy=table[:, :2], labels=table[:, 2])


def written(objects: tuple[ObjectPrompt, ...]) -> list[object]:
    return [
        (it.box_xyxy.tolist(), [(g.points_xy.tolist(), g.labels.tolist()) for g in it.groups])
        for it in objects
    ]


def test_questions_as_released():
    assert box_question("side view bird", "1") == (
        "Please provide the bounding box coordinate of the region this sentence describes (1):\n"
        '"side view bird".'
    )
    assert points_question(BIRD, np.array([[822, 771], [7, 15]])) == (
        "Check if the points listed below are located on the object with coordinates "
        "[281,251,863,999]:\n(822,771) (007,015)"
    )
    stem = points_question(BIRD, np.zeros((0, 2), int))
    assert points_question(BIRD, np.array([[7, 15]])) == f"{stem}(007,015)"
    assert group_question("it", "0+").endswith('sentence describes (0+):\n"it".')


def test_a_chat_in_llama_3s_template():
    pieces = chat([("Where?", "[001,002,003,004]"), ("On it?", None)], "Be brief.")
    assert "".join(piece.text for piece in pieces) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhere?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[001,002,003,004]<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nOn it?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    learned = [piece.text for piece in pieces if piece.is_answer]
    assert learned == ["[001,002,003,004]", "<|eot_id|>"]
    assert pieces[:2] == opening("Be brief.")
    assert pieces[1] == IMAGE


@pytest.mark.parametrize("phrase", ["<image>", "<|eot_id|>", "<|begin_of_text|>"])
def test_what_a_user_says_is_no_template(phrase):
    pieces = turn(phrase, phrase, is_first=False)
    assert [piece.is_template for piece in pieces] == [True, False, True, False, True]
    assert [piece.text for piece in pieces if not piece.is_template] == [phrase, phrase]
    assert IMAGE not in pieces


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("[281,251,863,999]", [[281, 251, 863, 999]]),
        ("[281,251,863,999] [001,002,003,004]", [[281, 251, 863, 999], [1, 2, 3, 4]]),
        ("[1,2,3,4], [5,6,7,8]", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("\n [ 863, 999 ,281,251 ]\n", [[281, 251, 863, 999]]),
        ("[863,251,281,999]", [[281, 251, 863, 999]]),
        ("[-5,0,1000,123456]", [[0, 0, 999, 999]]),
        ("[1,2,3,4].", [[1, 2, 3, 4]]),
        (" [1,2,3,4] [5,6,7,8] .\n", [[1, 2, 3, 4], [5, 6, 7, 8]]),
    ],
)
def test_boxes_whose_meaning_is_plain(text, boxes):
    reading = parse_boxes(text)
    assert (reading.boxes_xyxy.tolist(), reading.reason) == (boxes, "")
    assert reading.boxes_xyxy.dtype == np.int64
    assert parse_boxes(box_answer(reading.boxes_xyxy)).boxes_xyxy.tolist() == boxes


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "the mug", "[281,251,863", "281,251,863,999", "[281,251,863,999,1]", "[1,2,3]",
        "[nan,1,2,3]", "[1.5,2,3,4]", "[1e3,2,3,4]", "[1,2,3,4] and more", "[1,2,3,4], No",
        "[1 2,3,4,5]", "[1,2,3,4].[", "[1,2,3,4]..", "[1,2,3,4] [5,6.", "[1,2,3,4] [5,6,7,8,",
        "[1,2,3,4] [--5", "[1,2,3,4]/",
        "[--1,2,3,4]", f"[{'9' * 5000},1,2,3]", "[١,2,3,4]", "(1,2,3,4)", "\x00",
        f"[1,2,3,4] [{'9' * 10}", ".", "[1,2,3,4],,", "[inf,-inf,0,0]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("parse", [parse_boxes, parse_groups])
def test_anything_else_is_nothing_and_says_why(parse, text):
    reading = parse(text)
    assert len(getattr(reading, "objects", ())) == len(getattr(reading, "boxes_xyxy", ())) == 0
    assert reading.reason.startswith("the model's answer must be [x1,y1,x2,y2]")
    assert repr(text[:20])[1:-1] in reading.reason
    assert len(reading.reason) < 600


@pytest.mark.parametrize("text", ["No object found.", "no object found", " No object found.\n"])
def test_nothing_found(text):
    for reading in (parse_boxes(text), parse_groups(text)):
        assert reading.reason == "the model says: No object found."
    assert box_answer(np.zeros((0, 4), int)) == group_answer(()) == "No object found."


def test_groups_of_points():
    objects = (
        ObjectPrompt(box_xyxy=BIRD, groups=(group((1, 2, 1), (3, 4, 1), (5, 6, 0)),)),
        ObjectPrompt(box_xyxy=np.array([1, 2, 3, 4]), groups=(group((7, 8, 0)), group((9, 9, 1)))),
        ObjectPrompt(box_xyxy=np.array([5, 6, 7, 8]), groups=()),
    )
    text = group_answer(objects)
    assert text == (
        "[281,251,863,999]+(001,002)+(003,004)-(005,006) "
        "[001,002,003,004]-(007,008)/+(009,009) [005,006,007,008]"
    )
    assert written(parse_groups(text).objects) == written(objects)
    loose = " [863,999,281,251] + ( 1,2 ) + (3,4)\n-(5,6)[1,2,3,4]-(7,8) / +(9,9) [5,6,7,8] "
    assert written(parse_groups(loose).objects) == written(objects)
    assert written(parse_groups("[1,2,3,4]-(-7,4000)").objects)[0][1] == [([[0, 999]], [0])]


@pytest.mark.parametrize("text", ["[1,2,3,4]/+(1,2)", "+(1,2)", "[1,2,3,4](1,2)"])
def test_points_without_a_place(text):
    assert parse_groups(text).objects == ()
    assert text in parse_groups(text).reason


@pytest.mark.parametrize("parse", [parse_boxes, parse_groups])
@pytest.mark.parametrize(
    "cut", ["[", "[5", "[500,600,90", "[5,6,7,8", "[ -", "[5,-6", ",", ", [5,6", "[-5,6 ,"]
)
def test_whole_boxes_count_where_the_last_is_cut_off(parse, cut):
    reading = parse(f"[1,2,300,400] [9,8,7,6] {cut}")
    objects = getattr(reading, "objects", None)
    boxes = reading.boxes_xyxy if objects is None else [one.box_xyxy for one in objects]
    assert np.asarray(boxes).tolist() == [[1, 2, 300, 400], [7, 6, 9, 8]]
    assert reading.reason == f"left out {cut.strip()!r}, which is cut off"


@pytest.mark.parametrize(
    ("text", "labels", "cut"),
    [
        ("[1,2,3,4]+(1,2)+", [], "+(1,2)+"),
        ("[1,2,3,4]+(1,2)/", [[1]], "/"),
        ("[1,2,3,4]+(1,2)-(3,4) / -(5", [[1, 0]], "/ -(5"),
        ("[1,2,3,4]+(1,2)/-(3,4)+(5,6", [[1]], "-(3,4)+(5,6"),
        ("[1,2,3,4] -(", [], "-("),
        ("[1,2,3,4]-(5,-", [], "-(5,-"),
    ],
)
def test_whole_groups_count_where_the_last_is_cut_off(text, labels, cut):
    (found,) = parse_groups(text).objects
    assert found.box_xyxy.tolist() == [1, 2, 3, 4]
    assert [group.labels.tolist() for group in found.groups] == labels
    assert parse_groups(text).reason == f"left out {cut!r}, which is cut off"
    assert parse_boxes(text).reason.startswith("the model's answer must be")


@pytest.mark.parametrize("parse", [parse_boxes, parse_groups])
@pytest.mark.parametrize("flat", ["[005,005,005,005]", "[005,005,009,005]", "[005,005,005,009]"])
def test_a_box_without_an_area_is_none(parse, flat):
    alone, beside = parse(flat), parse(f"{flat} [1,2,3,4] {flat} [7")
    assert len(getattr(alone, "objects", ())) == len(getattr(alone, "boxes_xyxy", ())) == 0
    assert alone.reason == f"left out '{flat}', without an area"
    assert len(getattr(beside, "objects", getattr(beside, "boxes_xyxy", ()))) == 1
    assert beside.reason == (
        f"left out '{flat} {flat}', without an area; left out '[7', which is cut off"
    )
    assert len(parse(flat * 500).reason) < 200


@pytest.mark.parametrize("parse", [parse_boxes, parse_groups])
def test_no_text_raises_or_leaves_the_range(parse):
    rng = random.Random(0)
    alphabet = (*"[](),+-/ \n0é", "12", "999", "77777777")
    whole = ("[001,002,003,004]", "[9,8,7,6]", " ", "+(005,006)", "-(007,008)", "/")
    emptied = 0
    for _ in range(4000):
        text = "".join(rng.choices(rng.choice([alphabet, whole]), k=rng.randrange(12)))
        if text and rng.random() < 0.3:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(alphabet) + text[at + rng.randrange(2) :]
        reading = parse(text)
        objects = getattr(reading, "objects", None)
        boxes = reading.boxes_xyxy if objects is None else [it.box_xyxy for it in objects]
        points = [group.points_xy for it in objects or () for group in it.groups]
        assert reading.reason or len(boxes)
        assert not len(boxes) or re.match("$|left out ", reading.reason)
        emptied += len(boxes) == 0
        for x1, y1, x2, y2 in boxes:
            assert 0 <= x1 < x2 <= 999
            assert 0 <= y1 < y2 <= 999
        for array in points:
            assert len(array)
            assert ((array >= 0) & (array <= 999)).all()
    assert 1000 < emptied < 3950


def test_an_answer_cut_anywhere_says_less_and_never_something_else():
    rng = np.random.default_rng(0)
    for _ in range(40):
        objects = []
        for corner in rng.integers(0, 900, (rng.integers(1, 4), 2)):
            points = np.column_stack([rng.integers(0, 999, (4, 2)), rng.integers(0, 2, 4)])
            groups = tuple(group(*some) for some in np.split(points, [1, 3])[: rng.integers(4)])
            box_xyxy = np.append(corner, corner + rng.integers(1, 99, 2))
            objects.append(ObjectPrompt(box_xyxy=box_xyxy, groups=groups))
        boxes = [one.box_xyxy.tolist() for one in objects]
        text = box_answer(np.array(boxes))
        for end in range(text.index("]") + 1, len(text) + 1):
            reading, count = parse_boxes(text[:end]), text[:end].count("]")
            assert reading.boxes_xyxy.tolist() == boxes[:count]
            assert bool(reading.reason) == (text[:end].rstrip()[-1] != "]")
        text = group_answer(objects)
        for end in range(text.index("]") + 1, len(text) + 1):
            reading, count = parse_groups(text[:end]), text[:end].count("]")
            found = [(box, points) for box, points in written(reading.objects)]
            assert found[:-1] == written(tuple(objects[: count - 1]))
            assert found[-1][0] == boxes[count - 1]
            assert bool(reading.reason) == (text[:end].rstrip()[-1] not in "])")
            for read, true in zip(
                found[-1][1], written(tuple(objects))[count - 1][1], strict=False
            ):
                assert read == (true[0][: len(read[0])], true[1][: len(read[1])])


def test_long_garbage_takes_no_time():
    for text in (
        "[1,2,3,4]" + " " * 50_000 + "x",
        "[1,2,3,4]+(1,2)" * 3000 + "x",
        "[" * 50_000,
        "[1,2,3,4] [1" + " " * 50_000 + "x",
        "[1,2,3,4]+(" + " " * 50_000 + "x",
    ):
        assert parse_groups(text).reason
        assert parse_boxes(text).reason


def test_points_answer_is_one_word_a_point():
    assert points_answer(np.array([1, 0, 0])) == "YesNoNo"


def test_thousandths_and_pixels():
    bird = np.array([[180.0, 120.0, 552.0, 479.0]])
    assert to_thousandths(bird, (479, 640)).tolist() == [[281, 251, 862, 999]]
    assert to_thousandths(np.array([-3.0, 1e9]), (10, 10)).tolist() == [0, 999]
    np.testing.assert_allclose(to_pixels(BIRD, (479, 640)), [179.84, 120.229, 552.32, 478.521])
    assert to_pixels(BIRD, (479, 640)).dtype == np.float32
    points = np.arange(1000).repeat(2).reshape(-1, 2)
    np.testing.assert_array_equal(to_thousandths(to_pixels(points, (479, 640)), (479, 640)), points)
