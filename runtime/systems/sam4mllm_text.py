"""SAM4MLLM's language (arXiv 2409.10542): boxes and points as the words of a chat.

Coordinates are thousandths of the frame, integers from 0 to 999, x before y. Questions and answers
are worded as in the released code; the words of a group of points are ours, as none were published.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

__all__ = [
    "IMAGE",
    "NO",
    "NOTHING",
    "STOP",
    "TOKENS",
    "YES",
    "BoxReading",
    "GroupReading",
    "ObjectPrompt",
    "Piece",
    "PointGroup",
    "box_answer",
    "box_question",
    "chat",
    "group_answer",
    "group_question",
    "opening",
    "parse_boxes",
    "parse_groups",
    "points_answer",
    "points_question",
    "to_pixels",
    "to_thousandths",
    "turn",
]

YES, NO, STOP = "Yes", "No", "<|eot_id|>"
"""Tokens of a point's answer, and the one that ends an answer."""
TOKENS = (
    YES, NO, STOP, "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
)  # fmt: skip
"""What must be one token each."""
NOTHING = "No object found."
"""What is answered where nothing is described."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointGroup:
    """Points of one object that SAM is shown together."""

    points_xy: np.ndarray
    """(n, 2) int64."""
    labels: np.ndarray
    """(n,) int64: 1 on the object, 0 off it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectPrompt:
    """One object as a model writes it in one turn."""

    box_xyxy: np.ndarray
    """(4,) int64, left above before right below."""
    groups: tuple[PointGroup, ...]
    """Any number of alternatives; without one, the box stands alone."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxReading:
    """What an answer of boxes says."""

    boxes_xyxy: np.ndarray
    """(n, 4) int64, left above before right below."""
    reason: str
    """Why there is none, or what of the answer was left out; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupReading:
    """What an answer of boxes with points says."""

    objects: tuple[ObjectPrompt, ...]
    """In the order they were written."""
    reason: str
    """Why there is none, or what of the answer was left out; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a chat, to be turned into tokens by itself."""

    text: str
    """Its words."""
    is_template: bool
    """Whether control tokens that it spells out are meant; never in what a user or model wrote."""
    is_answer: bool
    """Whether the model writes it, so that training counts it."""


IMAGE = Piece(text="<image>", is_template=True, is_answer=False)
"""Where the image's vectors stand."""


def box_question(phrase: str, count: str) -> str:
    """Ask for the boxes of what a phrase describes; `count` is "1", "1+" or "0+"."""
    return (
        "Please provide the bounding box coordinate of the region this sentence describes "
        f'({count}):\n"{phrase}".'
    )


def group_question(phrase: str, count: str) -> str:
    """Ask for boxes and points in one turn; `count` is "1", "1+" or "0+"."""
    return (
        "Please provide the bounding box coordinate and prompt points of the region this sentence "
        f'describes ({count}):\n"{phrase}".'
    )


def points_question(box_xyxy: np.ndarray, points_xy: np.ndarray) -> str:
    """Ask which of n points (n, 2) int lie on the object in a box (4,) int.

    What is asked about no point is what all such questions about the box begin with.
    """
    return (
        "Check if the points listed below are located on the object with coordinates "
        f"{_box(box_xyxy)}:\n{' '.join(map(_point, points_xy))}"
    )


def box_answer(boxes_xyxy: np.ndarray) -> str:
    """Write boxes (n, 4) int, or that there is none."""
    return " ".join(map(_box, boxes_xyxy)) or NOTHING


def points_answer(labels: np.ndarray) -> str:
    """Write labels (n,) int or bool of points, true on the object."""
    return "".join(YES if label else NO for label in labels)


def group_answer(objects: Sequence[ObjectPrompt]) -> str:
    """Write objects with their groups of points, or that there is none."""
    return " ".join(map(_object, objects)) or NOTHING


def parse_boxes(text: str) -> BoxReading:
    """Read what `box_answer` writes; corners may be reversed, numbers unpadded or too large.

    A full stop may end it. A last box that is cut off and boxes without an area are left out, and
    `reason` says so. Anything else is no box: nothing is guessed, and `reason` says what came
    instead.
    """
    read = _split(text.strip(), _BOXES, _CUT_BOX)
    if read is None:
        return BoxReading(
            boxes_xyxy=np.zeros((0, 4), np.int64),
            reason=_reason(text, "[x1,y1,x2,y2], or several with spaces between"),
        )
    whole, cut = read
    boxes = [_ordered(_numbers(box[0])) for box in _ONE_BOX.finditer(whole)]
    boxes_xyxy = np.array(boxes, np.int64).reshape(-1, 4)
    is_box = _has_area(boxes_xyxy)
    return BoxReading(boxes_xyxy=boxes_xyxy[is_box], reason=_left_out(cut, boxes_xyxy[~is_box]))


def parse_groups(text: str) -> GroupReading:
    """Read what `group_answer` writes, as tolerant and as strict as `parse_boxes`.

    Of a last box whose points are cut off, the box and its whole groups count.
    """
    read = _split(text.strip(), _OBJECTS, _CUT_OBJECT)
    if read is None:
        expected = "[x1,y1,x2,y2]+(x,y)-(x,y), '/' between groups"
        return GroupReading(objects=(), reason=_reason(text, expected))
    whole, cut = read
    objects = [_parse_object(one[0]) for one in _ONE_OBJECT.finditer(whole)]
    boxes_xyxy = np.array([one.box_xyxy for one in objects]).reshape(-1, 4)
    is_box = _has_area(boxes_xyxy)
    return GroupReading(
        objects=tuple(compress(objects, is_box)), reason=_left_out(cut, boxes_xyxy[~is_box])
    )


def to_thousandths(xy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Turn pixels (..., 2 or 4) float, x and y in turn, into int64 thousandths from 0 to 999."""
    wh = np.resize(size_hw[::-1], np.shape(xy)[-1])
    return np.clip(np.rint(np.asarray(xy) / wh * 1000), 0, 999).astype(np.int64)


def to_pixels(xy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Turn thousandths (..., 2 or 4) int, x and y in turn, into float32 pixels."""
    wh = np.resize(size_hw[::-1], np.shape(xy)[-1])
    return (np.asarray(xy) / 1000 * wh).astype(np.float32)


def opening(system: str) -> tuple[Piece, ...]:
    """Begin a chat: everything up to and with the image, the same for all questions about it."""
    text = f"<|begin_of_text|>{_header('system')}{system}{STOP}{_header('user')}"
    return (Piece(text=text, is_template=True, is_answer=False), IMAGE)


def turn(question: str, answer: str | None = None, *, is_first: bool) -> tuple[Piece, ...]:
    """Ask a question, and answer it or leave that to the model.

    Args:
        question: What the user says.
        answer: What the model said; None ends where the model would begin.
        is_first: Whether it follows the image; otherwise, an answer.
    """
    words = Piece(
        text=f"\n{question}" if is_first else question, is_template=False, is_answer=False
    )
    ask = Piece(text=STOP + _header("assistant"), is_template=True, is_answer=False)
    said = () if is_first else (Piece(text=_header("user"), is_template=True, is_answer=False),)
    asked = (*said, words, ask)
    if answer is None:
        return asked
    return (
        *asked,
        Piece(text=answer, is_template=False, is_answer=True),
        Piece(text=STOP, is_template=True, is_answer=True),
    )


def chat(turns: Sequence[tuple[str, str | None]], system: str) -> tuple[Piece, ...]:
    """Write a whole chat of questions and answers in Llama-3's template; see `turn`."""
    pieces = opening(system)
    for at, (question, answer) in enumerate(turns):
        pieces += turn(question, answer, is_first=at == 0)
    return pieces


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def _box(box_xyxy: np.ndarray) -> str:
    return f"[{','.join(f'{int(value):03d}' for value in box_xyxy)}]"


def _point(point_xy: np.ndarray) -> str:
    return f"({','.join(f'{int(value):03d}' for value in point_xy)})"


def _object(prompt: ObjectPrompt) -> str:
    groups = (
        "".join(
            f"{'+' if label else '-'}{_point(point)}"
            for point, label in zip(group.points_xy, group.labels, strict=True)
        )
        for group in prompt.groups
    )
    return _box(prompt.box_xyxy) + "/".join(groups)


def _parse_object(text: str) -> ObjectPrompt:
    box, _, groups = text.partition("]")
    return ObjectPrompt(
        box_xyxy=np.array(_ordered(_numbers(box)), np.int64),
        groups=tuple(map(_parse_group, filter(str.strip, groups.split("/")))),
    )


def _parse_group(text: str) -> PointGroup:
    points = [(match[0], match[1] == "+") for match in _ONE_POINT.finditer(text)]
    return PointGroup(
        points_xy=np.array([_numbers(point) for point, _ in points], np.int64),
        labels=np.array([label for _, label in points], np.int64),
    )


def _numbers(text: str) -> list[int]:
    return [min(max(int(number), 0), 999) for number in re.findall(_NUMBER, text)]


def _ordered(box: Sequence[int]) -> list[int]:
    x, y = sorted(box[0::2]), sorted(box[1::2])
    return [x[0], y[0], x[1], y[1]]


def _split(text: str, listed: re.Pattern[str], cut: re.Pattern[str]) -> tuple[str, str] | None:
    """Split an answer into what is whole and what is cut off; None where its end is neither."""
    found = listed.match(text)
    if not found:
        return None
    whole, rest = found[0], text[found.end() :]
    if rest == ".":
        return whole, ""
    if rest and not cut.fullmatch(rest):
        return None
    if rest.startswith("/") and not whole.rstrip().endswith(")"):
        return None  # A further group, of a box that has none.
    if rest.startswith(("+", "-")):
        # The points before it are of the same group.
        whole = whole[: max(whole.rfind("]"), whole.rfind("/")) + 1]
    return whole, text[len(whole) :].strip()


def _has_area(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return (n,) bool of ordered boxes (n, 4)."""
    return np.all(boxes_xyxy[:, 2:] > boxes_xyxy[:, :2], axis=1)


def _left_out(cut: str, flat_xyxy: np.ndarray) -> str:
    """Say what was left out of an answer: its cut end, and boxes (n, 4) without an area."""
    flat = " ".join(map(_box, flat_xyxy))
    found = ((flat, "without an area"), (cut, "which is cut off"))
    return "; ".join(f"left out {_quoted(text)}, {why}" for text, why in found if text)


def _reason(text: str, expected: str) -> str:
    if text.strip().rstrip(".").casefold() == NOTHING.rstrip(".").casefold():
        return f"the model says: {NOTHING}"
    return f"the model's answer must be {expected}; it is {_quoted(text)}"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}...")


_QUOTED = 80
# A sign that may precede a point is none of its numbers'; nine digits are what int() surely takes.
_NUMBER = r"-?[0-9]{1,9}"
_PAIR = rf"\s*{_NUMBER}\s*,\s*{_NUMBER}\s*"
_ONE_BOX = re.compile(rf"\[{_PAIR},{_PAIR}\]\s*")
_ONE_POINT = re.compile(rf"([+-])\s*\({_PAIR}\)\s*")
_GROUP = rf"(?:{_ONE_POINT.pattern})+"
_ONE_OBJECT = re.compile(rf"{_ONE_BOX.pattern}(?:{_GROUP}(?:/\s*{_GROUP})*)?")
_BOXES = re.compile(rf"{_ONE_BOX.pattern}(?:(?:,\s*)?{_ONE_BOX.pattern})*")
_OBJECTS = re.compile(rf"{_ONE_OBJECT.pattern}(?:(?:,\s*)?{_ONE_OBJECT.pattern})*")
# What an answer may end with where it breaks off, behind all that is whole.
_SOME, _PART = rf"\s*{_NUMBER}\s*,", rf"\s*(?:-|{_NUMBER}\s*)?"
_CUT_BOX = re.compile(rf",\s*|(?:,\s*)?\[(?:{_SOME}){{0,3}}{_PART}")
_CUT_POINT = rf"[+-]\s*(?:\((?:{_SOME})?{_PART})?"
_CUT_OBJECT = re.compile(rf"{_CUT_BOX.pattern}|(?:/\s*)?{_CUT_POINT}|/\s*")
