"""SAM4MLLM's talk with its language model: the image once, then a box and points a phrase."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from threading import RLock

import numpy as np

from ..errors import BundleError, PromptError
from ..language import Answer, LanguageEngine, Prefix
from ..language.parts import Part
from ..language.sampling import log_softmax
from ..timing import Stopwatch
from . import SharedQuestions
from .sam4mllm_protocol import Protocol
from .sam4mllm_text import (
    NOTHING,
    TOKENS,
    ObjectPrompt,
    Piece,
    PointGroup,
    box_question,
    group_question,
    opening,
    parse_boxes,
    parse_groups,
    points_answer,
    points_question,
    turn,
)

__all__ = ["Reply", "Talk"]

_WHOLE = np.array([0, 0, 999, 999])
_NO_POINTS = np.zeros((0, 2), np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reply:
    """What the model says of one phrase, in thousandths of the frame."""

    answer: str
    """Its words, a line for each turn."""
    reason: str
    """Why there is nothing to draw, or what of the answer is not drawn; else empty."""
    objects: tuple[ObjectPrompt, ...]
    """What SAM is shown: one mask each."""
    points_xy: np.ndarray
    """(n, 2) int64, all that were asked about or written, object after object."""
    labels: np.ndarray
    """(n,) int64: 1 on the object, 0 off it, -1 too unsure to be shown to SAM."""
    confidences: np.ndarray | None
    """(n, 2) float64, the probabilities of Yes and No; None where nothing was asked about."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Checked:
    """A box whose points were asked about."""

    box_xyxy: np.ndarray
    """(4,) int64."""
    points_xy: np.ndarray
    """(n, 2) int64."""
    words: str
    """The model's."""
    confidences: np.ndarray
    """(n, 2) float64, the probabilities of Yes and No."""


class Talk:
    """Asks the model; what it read of the newest image is kept, which spares work and no more."""

    def __init__(self, engine: LanguageEngine, protocol: Protocol, image_tokens: int) -> None:
        """Take an open model.

        Args:
            engine: Closed with this.
            protocol: How to ask.
            image_tokens: Most tokens that an image takes.

        Raises:
            BundleError: The vocabulary lacks a token of the protocol, or there is no room for an
                image and what is asked about it.
        """
        self._engine = engine
        self._protocol = protocol
        self._yes, self._no, self._stop = _check_tokens(engine)[:3]
        self._opening = self._tokens(opening(protocol.system)[:1])
        self._seen: tuple[np.ndarray, Prefix] | None = None
        self._lock = RLock()
        self._longest = self._room(image_tokens)
        if self._longest < len(self._asked("it")):
            raise BundleError(
                f"an image of {image_tokens} tokens and all that is asked about it must fit into "
                f"context_tokens, {protocol.context_tokens}, and the model's own limit, "
                f"{engine.spec.trained_tokens}; they do not; export the bundle again with more "
                "context_tokens, fewer tiles or fewer points"
            )

    def question(self, phrase: str) -> list[int]:
        """Put a phrase into the first question, as token ids.

        Raises:
            PromptError: It is too long.
        """
        return self._fitting(self._asked(phrase), phrase)

    def plain_question(self, text: str) -> list[int]:
        """Put a question that words answer, just as it is, into token ids.

        Raises:
            PromptError: It is too long.
        """
        return self._fitting(self._tokens(turn(text, is_first=True)), text)

    def replies(
        self, image: np.ndarray, questions: Sequence[Sequence[int]], watch: Stopwatch
    ) -> list[Reply]:
        """Ask first questions about one image, each as if it were the only one.

        Args:
            image: (n, width) float32, the image's tokens.
            questions: What `question` returned for each phrase.
            watch: Takes the time of "prefix", "box" and "points".

        Raises:
            EngineError: The computation failed.
            PromptError: There is no room.
        """
        with self._lock:
            with watch.lap("prefix"):
                seen = self._look(image)
            return [self._reply(seen, question, watch) for question in questions]

    def words(self, image: np.ndarray, question: Sequence[int]) -> str:
        """Answer what `plain_question` returned about one image (n, width) float32.

        Raises:
            EngineError: The computation failed.
            PromptError: There is no room.
        """
        with self._lock:
            answer = self._answer(self._look(image), question, self._protocol.max_tokens)
            answer.prefix.close()
        return self._engine.text(answer.tokens)

    def shared_questions(
        self, image: np.ndarray, question: Sequence[int]
    ) -> SharedQuestions | None:
        """Return the points' questions about the first box, or the whole image where none came."""
        if self._protocol.variant == "ppg":
            return None
        answer = self._first_answer(image, question)
        boxes_xyxy = parse_boxes(self._engine.text(answer)).boxes_xyxy
        beginning, endings = self._points_asked([*boxes_xyxy, _WHOLE][0])
        return SharedQuestions(
            engine=self._engine,
            beginning=(self._opening, image, [*question, *answer, *beginning]),
            questions=tuple(map(tuple, endings)),
            answers=(self._yes, self._no),
        )

    def reading(self, image: np.ndarray, question: Sequence[int]) -> tuple[Part, ...]:
        """Return what the model reads and answers first; where it is asked, one point behind it."""
        shared = self.shared_questions(image, question)
        if shared is not None:
            return *shared.beginning, shared.questions[0]
        return self._opening, image, [*question, *self._first_answer(image, question)]

    def close(self) -> None:
        """Close the model."""
        with self._lock:
            self._forget()
            self._engine.close()

    def _look(self, image: np.ndarray) -> Prefix:
        if self._seen is not None:
            of, prefix = self._seen
            if np.array_equal(of, image):
                return prefix
            # The room of the last image must be free before the next one is read.
            self._forget()
        prefix = self._engine.prefill([self._opening, image])
        self._seen = image, prefix
        return prefix

    def _forget(self) -> None:
        if self._seen is not None:
            self._seen[1].close()
            self._seen = None

    def _reply(self, seen: Prefix, question: Sequence[int], watch: Stopwatch) -> Reply:
        with watch.lap("box"):
            answer = self._answer(seen, question, self._protocol.max_tokens)
        text = self._engine.text(answer.tokens)
        rejection = self._rejection(answer)
        if rejection and text != NOTHING:
            answer.prefix.close()
            return _reply_from_groups(text, rejection, ())
        limit = self._protocol.max_tokens
        cut = "" if answer.is_complete else f"the answer was cut at {limit} tokens"
        with answer.prefix as told:
            if self._protocol.variant == "ppg":
                groups = parse_groups(text)
                return _reply_from_groups(text, _both(groups.reason, cut), groups.objects)
            boxes = parse_boxes(text)
            with watch.lap("points"):
                checked = [self._check(told, box_xyxy) for box_xyxy in boxes.boxes_xyxy]
        return self._reply_from_checked(text, _both(boxes.reason, cut), checked)

    def _rejection(self, answer: Answer) -> str:
        """Say why a first answer counts as `NOTHING`, whatever it goes on with; or nothing."""
        chance = float(np.exp(answer.watched[0, 1])) if answer.tokens else 0.0
        limit = self._protocol.reject_above
        if chance <= limit:
            return ""
        return f"the model would say {NOTHING!r} with probability {chance:.2f}, above {limit}"

    def _first_answer(self, image: np.ndarray, question: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens of an answer, and leave nothing behind."""
        with self._lock:
            answer = self._answer(self._look(image), question, self._protocol.max_tokens)
            answer.prefix.close()
            self._forget()
        return answer.tokens

    def _answer(self, after: Prefix, question: Sequence[int], max_tokens: int) -> Answer:
        with self._engine.prefill([question], after=after) as asked:
            return self._engine.generate(
                asked, stop=[self._stop], max_tokens=max_tokens, watch=[self._yes, self._no]
            )

    def _check(self, told: Prefix, box_xyxy: np.ndarray) -> _Checked:
        """Ask about the points in a box, after the answer that it stands in."""
        points_xy = self._protocol.points_in(box_xyxy)
        if self._protocol.is_batched:
            beginning, endings = self._points_asked(box_xyxy)
            with self._engine.prefill([beginning], after=told) as asked:
                outputs = self._engine.extend(asked, endings)
            logits = np.concatenate([output.logits for output in outputs])
            confidences = np.exp(log_softmax(logits)[:, [self._yes, self._no]])
            words = points_answer(confidences[:, 0] > confidences[:, 1])
        else:
            answer = self._answer(told, self._all_asked(box_xyxy), len(points_xy))
            # Points that the model left unanswered stay at 0: neither Yes nor No.
            confidences = np.zeros((len(points_xy), 2))
            confidences[: len(answer.tokens)] = np.exp(answer.watched)
            words = self._engine.text(answer.tokens)
        return _Checked(
            box_xyxy=box_xyxy, points_xy=points_xy, words=words, confidences=confidences
        )

    def _reply_from_checked(self, text: str, reason: str, checked: Sequence[_Checked]) -> Reply:
        labels = [self._protocol.labels_of(one.confidences) for one in checked]
        objects = (
            ObjectPrompt(
                box_xyxy=one.box_xyxy,
                groups=(PointGroup(points_xy=one.points_xy[those >= 0], labels=those[those >= 0]),),
            )
            for one, those in zip(checked, labels, strict=True)
        )
        return Reply(
            answer="\n".join([text, *(one.words for one in checked)]),
            reason=reason,
            objects=tuple(objects),
            points_xy=np.concatenate([_NO_POINTS, *(one.points_xy for one in checked)]),
            labels=np.concatenate([_NO_POINTS[:, 0], *labels]),
            confidences=np.concatenate([np.zeros((0, 2)), *(one.confidences for one in checked)]),
        )

    def _fitting(self, question: list[int], text: str) -> list[int]:
        """Return a first question about some text if there is room for it."""
        if len(question) > self._longest:
            raise PromptError(
                f"a question must have at most {self._longest} tokens; the one with "
                f"{text[:40]!r} has {len(question)}; say it shorter"
            )
        return question

    def _asked(self, phrase: str) -> list[int]:
        ask = group_question if self._protocol.variant == "ppg" else box_question
        return self._tokens(turn(ask(phrase, self._protocol.count), is_first=True))

    def _all_asked(self, box_xyxy: np.ndarray) -> list[int]:
        """Ask about all points of a box at once, after an answer that has not ended."""
        question = points_question(box_xyxy, self._protocol.points_in(box_xyxy))
        return [self._stop, *self._tokens(turn(question, is_first=False))]

    def _points_asked(self, box_xyxy: np.ndarray) -> tuple[list[int], list[list[int]]]:
        """Ask about each point of a box by itself: what all begin with, and each one's rest."""
        stem = points_question(box_xyxy, _NO_POINTS)
        *beginning, ask = turn(stem, is_first=False)
        points_xy = self._protocol.points_in(box_xyxy)[:, None]
        rests = (points_question(box_xyxy, point).removeprefix(stem) for point in points_xy)
        return (
            [self._stop, *self._tokens(beginning)],
            [self._tokens((replace(beginning[-1], text=rest), ask)) for rest in rests],
        )

    def _room(self, image_tokens: int) -> int:
        """Return how many tokens are left for a first question."""
        alone = together = 0
        if self._protocol.variant == "pqpp" and self._protocol.is_batched:
            beginning, endings = self._points_asked(_WHOLE)
            alone = len(beginning) + max(map(len, endings))
            together = len(beginning) + sum(map(len, endings))
        elif self._protocol.variant == "pqpp":
            alone = together = len(self._all_asked(_WHOLE)) + len(self._protocol.points_in(_WHOLE))
        taken = len(self._opening) + image_tokens + self._protocol.max_tokens
        limits = (
            self._engine.spec.trained_tokens - alone,
            self._protocol.context_tokens - together,
        )
        return min(limits) - taken

    def _tokens(self, pieces: Iterable[Piece]) -> list[int]:
        return [
            token
            for piece in pieces
            for token in self._engine.tokens(piece.text, special=piece.is_template)
        ]


def _check_tokens(engine: LanguageEngine) -> list[int]:
    try:
        return [engine.token(name) for name in TOKENS]
    except PromptError as error:
        raise BundleError(
            f"sam4mllm needs a language model with LLaMA-3's vocabulary: {error}; export the "
            "bundle again"
        ) from error


def _both(reason: str, cut: str) -> str:
    return "; ".join(filter(None, (reason, cut)))


def _reply_from_groups(text: str, reason: str, objects: tuple[ObjectPrompt, ...]) -> Reply:
    groups = [group for one in objects for group in one.groups]
    return Reply(
        answer=text,
        reason=reason,
        objects=objects,
        points_xy=np.concatenate([_NO_POINTS, *(group.points_xy for group in groups)]),
        labels=np.concatenate([_NO_POINTS[:, 0], *(group.labels for group in groups)]),
        confidences=None,
    )
