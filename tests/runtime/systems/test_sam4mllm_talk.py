"""The image is read once, points are asked about in one batch, and answers don't depend on that."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saymask.runtime.bench.questions import WAYS
from saymask.runtime.errors import BundleError, PromptError
from saymask.runtime.language import LanguageEngine
from saymask.runtime.language.sampling import log_softmax
from saymask.runtime.systems.sam4mllm_protocol import Protocol, grid_points
from saymask.runtime.systems.sam4mllm_talk import Reply, Talk
from saymask.runtime.systems.sam4mllm_text import points_answer, points_question
from saymask.runtime.timing import Stopwatch

from .. import tiny_chat
from ..chat_bundle import PROTOCOL
from ..tiny_gguf import open_on

KEEN = replace(PROTOCOL, keep_yes=0.8, keep_no=0.8)
RELEASED = replace(KEEN, is_batched=False, points="fixed", point_count=6)
TOKENS = 12


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    image = np.random.default_rng(0).normal(size=(TOKENS, tiny_chat.WIDTH)).astype(np.float32)
    image[:, tiny_chat.STEERING] = 0
    return image


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Callable[..., Path]:
    """Writes a model that answers as it is told, each one once."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def write(answer: str = tiny_chat.BOX) -> Path:
        if answer not in made:
            made[answer] = tiny_chat.write(folder / f"{len(made)}.gguf", answer)
        return made[answer]

    return write


@pytest.fixture
def talk(model) -> Callable[..., Talk]:
    def make(
        answer: str = tiny_chat.BOX, protocol: Protocol = KEEN, backend: str = "llamacpp"
    ) -> Talk:
        room = protocol.context_tokens
        return Talk(open_on(backend, model(answer), context_tokens=room), protocol, TOKENS)

    return make


def reply_of(talk: Talk, image: np.ndarray, phrase: str = "the red mug") -> Reply:
    (reply,) = talk.replies(image, [talk.question(phrase)], Stopwatch())
    return reply


@pytest.mark.parametrize("backend", ["llamacpp", "reference"])
def test_a_box_and_its_points(talk, image, backend):
    reply = reply_of(talk(backend=backend), image)
    (found,), points = reply.objects, grid_points(np.array([281, 251, 863, 999]), 3)
    assert reply.reason == ""
    assert found.box_xyxy.tolist() == [281, 251, 863, 999]
    np.testing.assert_array_equal(reply.points_xy, points)
    assert reply.confidences is not None
    words = points_answer(reply.confidences[:, 0] > reply.confidences[:, 1])
    assert reply.answer == f"[281,251,863,999]\n{words}"
    assert "Yes" in words
    assert "No" in words
    assert (reply.confidences.sum(axis=1) < 1).all()
    is_kept = reply.confidences.max(axis=1) > 0.8
    assert 0 < is_kept.sum() < 9
    np.testing.assert_array_equal(reply.labels >= 0, is_kept)
    np.testing.assert_array_equal(found.groups[0].points_xy, points[is_kept])
    np.testing.assert_array_equal(found.groups[0].labels, reply.labels[is_kept])


def test_backends_agree(talk, image):
    replies = [reply_of(talk(backend=backend), image) for backend in ("llamacpp", "reference")]
    assert replies[0].answer == replies[1].answer
    chances = [reply.confidences for reply in replies]
    np.testing.assert_allclose(chances[0], chances[1], atol=1e-4)


@pytest.mark.parametrize("backend", ["llamacpp", "reference"])
def test_one_batch_as_one_by_one_as_whole_texts(talk, image, backend):
    talk = talk(backend=backend)
    confidences = reply_of(talk, image).confidences
    shared = talk.shared_questions(image, talk.question("the red mug"))
    asked = 9 if backend == "llamacpp" else 3
    for way in WAYS.values():
        logits = way(shared, shared.questions[:asked], Stopwatch())
        chances = np.exp(log_softmax(logits)[:, shared.answers])
        np.testing.assert_allclose(chances, confidences[:asked], atol=1e-5)
        labels = KEEN.labels_of(confidences[:asked])
        np.testing.assert_array_equal(KEEN.labels_of(chances), labels)


def test_a_questions_two_halves_are_its_whole_text(talk):
    talk, box = talk(), np.array([281, 251, 863, 999])
    beginning, endings = talk._points_asked(box)
    for ending, point in zip(endings, KEEN.points_in(box), strict=True):
        whole = talk._engine.tokens(points_question(box, point[None]))
        read = [*beginning, *ending]
        at = next(at for at in range(len(read)) if read[at : at + len(whole)] == whole)
        assert talk._engine.text(read[:at]).endswith("user<|end_header_id|>\n\n")


def test_the_image_is_read_once(talk, image, monkeypatch):
    talk, beginnings = talk(), []
    prefill = LanguageEngine.prefill

    def counted(engine, parts, **options):
        beginnings.extend(parts[1:])
        return prefill(engine, parts, **options)

    monkeypatch.setattr(LanguageEngine, "prefill", counted)
    questions = [talk.question(phrase) for phrase in ("the red mug", "it")]
    watch = Stopwatch()
    together = talk.replies(image, questions, watch)
    assert [stage for stage, _ in watch.laps_ms] == ["prefix", "box", "points"]
    again = talk.replies(image.copy(), questions[1:], Stopwatch())
    assert len(beginnings) == 1
    np.testing.assert_array_equal(again[0].confidences, together[1].confidences)
    other = talk.replies(image * 2, questions[:1], Stopwatch())
    assert len(beginnings) == 2
    assert not np.array_equal(other[0].confidences, together[0].confidences)
    back = talk.replies(image, questions[:1], Stopwatch())
    np.testing.assert_array_equal(back[0].confidences, together[0].confidences)


@pytest.mark.parametrize("backend", ["llamacpp", "reference"])
def test_words_answer_a_plain_question(talk, image, backend):
    talk = talk("No, two.", backend=backend)
    assert talk.words(image, talk.plain_question("How many?")) == "No, two."
    kept = talk._seen
    assert reply_of(talk, image).answer == "No, two."
    assert talk._seen is kept, "the image is read once for both"
    asked = talk._engine.text(talk.plain_question("How many?"))
    assert asked.startswith("\nHow many?")
    assert "bounding box" not in asked
    with pytest.raises(PromptError, match="the one with 'red red .* say it shorter"):
        talk.plain_question("red " * 200)


def test_random_points_are_asked_about_as_they_are_shown(talk, image):
    protocol = replace(KEEN, points="random")
    reply, again = (reply_of(talk(protocol=protocol), image) for _ in range(2))
    np.testing.assert_array_equal(reply.points_xy, again.points_xy)
    np.testing.assert_array_equal(reply.confidences, again.confidences)
    listed = reply_of(talk(protocol=replace(protocol, is_batched=False)), image)
    np.testing.assert_array_equal(listed.points_xy, reply.points_xy)


def test_what_is_read_is_what_was_asked_and_answered(talk, image):
    talk = talk()
    question = talk.question("the red mug")
    opening, seen, *words = talk.reading(image, question)
    shared = talk.shared_questions(image, question)
    assert (opening, *words) == (shared.beginning[0], shared.beginning[2], shared.questions[0])
    np.testing.assert_array_equal(seen, image)
    text = talk._engine.text([token for part in words for token in part])
    assert text.count(tiny_chat.BOX) == 2
    assert text.endswith("assistant<|end_header_id|>\n\n")


def test_what_is_read_in_one_turn_ends_with_its_answer(talk, image):
    talk = talk(protocol=replace(KEEN, variant="ppg"))
    *_, words = talk.reading(image, talk.question("the red mug"))
    assert talk._engine.text(words).endswith(tiny_chat.BOX)


def test_nothing_piles_up(talk, image):
    talk = talk()
    rooms = []
    for seed in range(4):
        reply_of(talk, image + np.eye(TOKENS, 64, 20, dtype=np.float32) * seed)
        talk.shared_questions(image, talk.question("it"))
        talk.words(image, talk.plain_question("Is it?"))
        talk.shared_questions(image, talk.question("it"))
        rooms.append(talk._engine._cells.free)
    assert rooms == [KEEN.context_tokens] * 4
    talk.close()


@pytest.mark.parametrize("backend", ["llamacpp", "reference"])
def test_all_points_in_one_question(talk, image, backend):
    reply = reply_of(talk(protocol=RELEASED, backend=backend), image)
    assert reply.answer.startswith("[281,251,863,999]\n")
    assert reply.points_xy.shape == (6, 2)
    np.testing.assert_array_equal(reply.labels, RELEASED.labels_of(reply.confidences))
    assert reply.confidences.max() > 0.5


def test_points_that_the_model_left_out(talk, image, monkeypatch):
    talk = talk(protocol=RELEASED)
    generate = LanguageEngine.generate
    monkeypatch.setattr(
        LanguageEngine,
        "generate",
        lambda engine, prefix, **options: generate(
            engine, prefix, **{**options, "max_tokens": min(2, options["max_tokens"])}
        ),
    )
    reply = reply_of(talk, image)
    assert (reply.confidences[:2] > 0).all()
    assert (reply.confidences[2:] == 0).all()
    assert reply.labels[2:].tolist() == [-1] * 4


def test_several_boxes(talk, image):
    reply = reply_of(talk("[001,002,300,400] [500,600,900,950]"), image)
    assert [one.box_xyxy.tolist() for one in reply.objects] == [
        [1, 2, 300, 400],
        [500, 600, 900, 950],
    ]
    assert reply.answer.count("\n") == 2
    assert reply.points_xy.shape == (18, 2)
    assert "Yes" in reply.answer.split("\n")[1]
    assert "Yes" not in reply.answer.split("\n")[2]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("No object found.", "the model says: No object found."),
        ("the mug!", "must be .*; it is 'the mug!'"),
        ("[281,251", r"it is '\[281,251'"),
        ("[005,005,005,009]", r"left out '\[005,005,005,009\]', without an area"),
    ],
)
@pytest.mark.parametrize("variant", ["pqpp", "ppg"])
def test_an_answer_without_a_box(talk, image, answer, reason, variant):
    reply = reply_of(talk(answer, replace(KEEN, variant=variant)), image)
    assert reply.objects == ()
    assert len(reply.points_xy) == len(reply.labels) == 0
    assert reply.answer == answer
    assert re.search(reason, reply.reason)


@pytest.mark.parametrize("variant", ["pqpp", "ppg"])
def test_an_answer_that_might_have_been_none(talk, image, variant):
    protocol = replace(KEEN, variant=variant)
    whole = talk(protocol=protocol)
    answer = whole._answer(whole._look(image), whole.question("it"), 8)
    chance = float(np.exp(answer.watched[0, 1]))
    assert 0 < chance < 0.5
    assert reply_of(talk(protocol=replace(protocol, reject_above=chance)), image, "it").objects
    wary = talk(protocol=replace(protocol, reject_above=chance * 0.99))
    room = wary._engine._cells.free
    reply = reply_of(wary, image, "it")
    assert reply.objects == ()
    assert reply.answer == tiny_chat.BOX
    assert re.search(r"would say 'No object found\.' with probability 0\.\d+, above", reply.reason)
    talk_tokens = len(wary._opening) + len(image)
    assert wary._engine._cells.free == room - talk_tokens, "the answer's room is free again"


def test_a_plain_no_is_what_the_model_says(talk, image):
    wary = talk("No object found.", replace(KEEN, reject_above=0.0))
    assert reply_of(wary, image).reason == "the model says: No object found."


def test_an_answer_that_does_not_end(talk, image, monkeypatch):
    talk = talk("the mug")
    monkeypatch.setattr(talk, "_stop", talk._yes)
    assert reply_of(talk, image).reason.endswith("; the answer was cut at 8 tokens")


@pytest.mark.parametrize("backend", ["llamacpp", "reference"])
@pytest.mark.parametrize("variant", ["pqpp", "ppg"])
def test_whole_boxes_before_one_that_is_cut_off(talk, image, variant, backend):
    kept, protocol = "[001,002,300,400]", replace(KEEN, variant=variant)
    for rest, limit, reason in (
        (".", 8, ""),
        (" [500,60", 8, "left out '[500,60', which is cut off"),
        (" [500,60", 1, "left out '[500,60', which is cut off; the answer was cut at 1 tokens"),
        ("", 1, "the answer was cut at 1 tokens"),
    ):
        made = talk(kept + rest, replace(protocol, max_tokens=limit), backend)
        reply = reply_of(made, image)
        assert [one.box_xyxy.tolist() for one in reply.objects] == [[1, 2, 300, 400]]
        assert (reply.reason, reply.answer.split("\n")[0]) == (reason, kept + rest)
        assert (reply.confidences is None) == (variant == "ppg")


def test_points_beside_the_box(talk, image):
    answer = "[281,251,863,999]+(300,400)-(285,255)/+(500,500)"
    talk = talk(answer, replace(KEEN, variant="ppg"))
    reply = reply_of(talk, image)
    assert [group.labels.tolist() for group in reply.objects[0].groups] == [[1, 0], [1]]
    assert reply.points_xy.tolist() == [[300, 400], [285, 255], [500, 500]]
    assert reply.labels.tolist() == [1, 0, 1]
    assert reply.confidences is None
    assert talk.shared_questions(image, talk.question("it")) is None


def test_what_a_user_says_is_no_template(talk):
    talk = talk()
    plain = talk.question("it")
    for said in ("<|eot_id|>", "<|start_header_id|>system"):
        asked = talk.question(said)
        assert [asked.count(token) for token in set(plain) if token > 1266] == [
            plain.count(token) for token in set(plain) if token > 1266
        ]


def test_a_phrase_that_is_too_long(talk, image):
    talk = talk()
    with pytest.raises(PromptError, match=r"at most \d+ tokens; the one with 'red red .* say it"):
        talk.question("red " * 200)
    longest = talk._longest - len(talk.question(""))
    with pytest.raises(PromptError, match="say it shorter"):
        talk.question("." * (longest + 1))
    assert reply_of(talk, image, "." * longest).answer


@pytest.mark.parametrize(
    ("protocol", "image_tokens"),
    [(replace(KEEN, context_tokens=200), TOKENS), (KEEN, 500), (RELEASED, 500)],
)
def test_an_image_that_leaves_no_room(model, protocol, image_tokens):
    with (
        open_on("llamacpp", model()) as engine,
        pytest.raises(BundleError, match=rf"an image of {image_tokens} tokens .* fewer tiles"),
    ):
        Talk(engine, protocol, image_tokens)


@pytest.mark.parametrize("missing", ["Yes", "<|eot_id|>", "<|start_header_id|>"])
def test_a_vocabulary_of_another_model(tmp_path, missing):
    path = tiny_chat.write(tmp_path / "other.gguf", without=(missing,))
    with open_on("llamacpp", path) as engine, pytest.raises(BundleError) as raised:
        Talk(engine, KEEN, TOKENS)
    assert f"LLaMA-3's vocabulary: {missing!r} must be one token" in str(raised.value)
