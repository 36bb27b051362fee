"""SAM4MLLM draws what its model writes, says what it drew from, and refuses what it cannot read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from saymask.runtime.backends import llama_binding
from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.runtime.errors import (
    BundleError,
    EngineError,
    FrameError,
    MissingExtraError,
    PromptError,
)
from saymask.runtime.prompt import Prompt
from saymask.runtime.segmenter import Segmenter
from saymask.runtime.systems import open_system, sam4mllm

from .. import chat_bundle, tiny_chat, tiny_gguf
from ..chat_bundle import PROTOCOL, TILES

KEEN = replace(PROTOCOL, keep_yes=0.5, keep_no=0.5)
PPG = replace(PROTOCOL, variant="ppg")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Callable[..., Bundle]:
    """Writes a bundle whose model answers as it is told, each one once."""
    folder, made = tmp_path_factory.mktemp("bundles"), {}

    def write(answer: str = tiny_chat.BOX, protocol=KEEN, **options: object) -> Bundle:
        key = (answer, protocol, str(options))
        if key not in made:
            path = folder / f"{len(made)}"
            made[key] = Bundle.read(chat_bundle.write(path, answer, protocol, **options))
        return made[key]

    return write


@pytest.fixture
def opened(bundle) -> Callable[..., sam4mllm.Sam4Mllm]:
    pytest.importorskip("xllamacpp")

    def make(*words: object, backend: str = "llamacpp", **options: object) -> sam4mllm.Sam4Mllm:
        return sam4mllm.open_system(
            bundle(*words, **options), device="cpu", threads=1, language_backend=backend
        )

    return make


def prompts(*texts: str) -> tuple[Prompt, ...]:
    return tuple(map(Prompt, texts))


def inside(frame: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Pixels whose middles lie in a box of thousandths."""
    height, width = frame.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    across = (x > left / 1000 * width) & (x < right / 1000 * width)
    return across & (y > top / 1000 * height) & (y < bottom / 1000 * height)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("backend", ["llamacpp", "reference"])
def test_the_box_is_drawn(opened, frame, backend):
    masks = opened(backend=backend).segment(frame, prompts("the red mug"))
    (said,) = masks.said
    assert iou(masks.boolean[0], inside(frame, 281, 251, 863, 999)) > 0.85
    assert masks.answer == said.answer
    assert said.answer.startswith("[281,251,863,999]\n")
    assert said.reason == ""
    np.testing.assert_allclose(said.boxes_xyxy, [[33.72, 22.59, 103.56, 89.91]], atol=1e-4)
    assert said.points_xy.shape == (9, 2)
    assert said.confidences is not None
    np.testing.assert_array_equal(said.labels, KEEN.labels_of(said.confidences))
    stages = [stage for stage, _ in masks.timings_ms]
    asked = ["prefix", "box", "points"]
    assert stages == ["words", "views", "image", "vision", *asked, "mask", "back"]


def test_the_mask_of_best_predicted_iou(opened, frame):
    """Each point on the object adds 0.2 to the IoU that the second, smaller mask begins with."""
    alone = opened("[281,251,863,999]", PPG).segment(frame, prompts("it"))
    points = "+(300,400)" * 3
    shown = opened(f"[281,251,863,999]{points}", PPG).segment(frame, prompts("it"))
    assert iou(alone.boolean[0], inside(frame, 281, 251, 863, 999)) > 0.85
    assert 0 < shown.boolean.sum() < alone.boolean.sum()
    assert not (shown.boolean & ~alone.boolean).any()
    assert shown.said[0].confidences is None


def test_the_group_of_best_predicted_iou(opened, frame):
    answer = "[281,251,863,999]+(300,400)/" + "+(300,400)" * 3
    one = opened("[281,251,863,999]" + "+(300,400)" * 3, PPG).segment(frame, prompts("it"))
    best = opened(answer, PPG).segment(frame, prompts("it"))
    np.testing.assert_array_equal(best.boolean, one.boolean)


def test_several_objects_are_one_mask(opened, frame):
    masks = opened("[001,002,300,400] [500,600,900,950]").segment(frame, prompts("mugs", "them"))
    truth = inside(frame, 1, 2, 300, 400) | inside(frame, 500, 600, 900, 950)
    assert len(masks) == 2
    assert iou(masks.boolean[0], truth) > 0.7
    assert masks.said[0].boxes_xyxy.shape == (2, 4)
    assert 0.5 < masks.scores[0] <= 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("No object found.", "the model says: No object found."),
        ("a mug", "the model's answer must be [x1,y1,x2,y2], or several with spaces between; it "
         "is 'a mug'"),
    ],
)  # fmt: skip
def test_no_box_is_an_empty_mask_that_says_why(opened, frame, answer, reason):
    masks = opened(answer).segment(frame, prompts("the red mug", "it"))
    assert masks.boolean.shape == (2, *frame.shape[:2])
    assert not masks.boolean.any()
    assert masks.scores.tolist() == [0, 0]
    assert [said.reason for said in masks.said] == [reason, reason]
    assert masks.answer == f"{answer}\n{answer}"


def test_together_as_alone(opened, frame):
    system, texts = opened(), ("the red mug", "it", "that one over there")
    together = system.segment(frame, prompts(*texts))
    for index, text in enumerate(texts):
        alone = system.segment(frame, prompts(text))
        np.testing.assert_array_equal(together.boolean[index], alone.boolean[0])
        np.testing.assert_array_equal(together.said[index].confidences, alone.said[0].confidences)


def test_three_steps_on_frames_that_overtake_each_other(opened, frame):
    system = opened()
    frames = (frame, np.ascontiguousarray(frame[:, ::-1]))
    first, second = (system.prepare(image, prompts("it")) for image in frames)
    inferred = system.infer(second), system.infer(first)
    for image, work in zip(frames[::-1], inferred, strict=True):
        expected = system.segment(image, prompts("it"))
        for masks in (system.finish(work), system.finish(work)):
            np.testing.assert_array_equal(masks.boolean, expected.boolean)
            np.testing.assert_array_equal(masks.said[0].confidences, expected.said[0].confidences)


def test_a_frame_in_tiles(opened, frame):
    system, tall = opened(tiling=TILES), np.ascontiguousarray(frame.transpose(1, 0, 2))
    runs = []
    watched = system.with_engines(lambda engine: _Watched(engine, runs))
    for image in (frame, tall):
        masks = watched.segment(image, prompts("it"))
        assert masks.said[0].answer
    shapes = [inputs["pixels"].shape for name, inputs in runs if name == "vision"]
    assert shapes == [(3, 3, 24, 32), (3, 3, 24, 32)]


class _Watched:
    """Writes down what an engine is given."""

    def __init__(self, engine, runs: list) -> None:
        self._engine, self._runs = engine, runs
        self.stage, self.device, self.close = engine.stage, engine.device, engine.close

    def run(self, inputs):
        self._runs.append((self.stage.name, inputs))
        return self._engine.run(inputs)


def test_one_run_of_each_engine_for_all_prompts(opened, frame):
    runs: list = []
    system = opened("[001,002,300,400] [500,600,900,950]", PPG)
    watched = system.with_engines(lambda engine: _Watched(engine, runs))
    watched.segment(frame, prompts("the red mug", "it"))
    assert Counter(name for name, _ in runs) == {"image": 1, "vision": 1, "mask": 1}
    shown = runs[-1][1]
    assert shown["labels"].tolist() == [[2, 3]] * 4
    # The frame of 90 x 120 fills SAM's canvas of 96 x 128 pixels.
    np.testing.assert_allclose(shown["points_xy"][0], [[0.128, 0.192], [38.4, 38.4]], rtol=1e-5)


def test_prompts_are_checked_without_a_frame(opened):
    system = opened()
    system.check_prompts(prompts("the red mug"))
    with pytest.raises(PromptError, match="a question must have at most .* say it shorter"):
        system.check_prompts(prompts("it", "red " * 500))
    with pytest.raises(PromptError, match="sam4mllm reads words alone"):
        system.check_prompts((Prompt("it", history=("mug",)),))
    with pytest.raises(FrameError, match="uint8"):
        system.prepare(np.zeros((4, 4)), prompts("it"))
    assert system.open_tracker() is None
    assert system.device == "cpu"


def test_a_question_is_answered_in_words(opened, frame):
    system, runs = opened("two"), []
    watched = system.with_engines(lambda engine: _Watched(engine, runs))
    assert watched.answer(frame, Prompt("How many mugs?")) == "two"
    assert [name for name, _ in runs] == ["vision"]
    with pytest.raises(PromptError, match="say it shorter"):
        system.answer(frame, Prompt("red " * 500))
    with pytest.raises(PromptError, match="reads words alone"):
        system.answer(frame, Prompt("it", history=("mug",)))
    with pytest.raises(FrameError, match="uint8"):
        system.answer(np.zeros((4, 4)), Prompt("it"))


def test_a_language_model_that_cannot_be_read(bundle, tmp_path):
    found = bundle()
    whole = (found.folder / "stages/language.gguf").read_bytes()
    other = tiny_gguf.write(tmp_path / "qwen.gguf", architecture="falcon").read_bytes()
    words = tiny_gguf.write(tmp_path / "llama.gguf").read_bytes()
    for data, error, message in (
        (whole[: len(whole) // 2], EngineError, "was cut off; copy it or export it again"),
        (whole[:100], EngineError, "must be a whole GGUF file"),
        (other, EngineError, "the architecture of .* must be one of llama, qwen2; got 'falcon'"),
        (words, BundleError, "LLaMA-3's vocabulary: 'Yes' must be one token of"),
    ):
        (tmp_path / "stages").mkdir(exist_ok=True)
        (tmp_path / "stages/language.gguf").write_bytes(data)
        with pytest.raises(error, match=message):
            open_system(replace(found, folder=tmp_path), device="cpu", threads=1)


def test_a_model_of_another_width(bundle, frame, monkeypatch):
    found = bundle()
    stages = tuple(
        replace(stage, file=str(found.folder / stage.file)) for stage in found.manifest.stages
    )
    manifest = replace(found.manifest, stages=stages)
    system = open_system(replace(found, manifest=manifest), device="cpu", threads=1)
    prepared = system.prepare(frame, prompts("it"))
    vision = system._engines["vision"]
    monkeypatch.setattr(vision, "run", lambda _: {"image_embeddings": np.zeros((1, 11, 64))})
    with pytest.raises(BundleError, match="'vision' must make 3 x 4 tokens of a tile.* makes 11"):
        system.infer(prepared)
    monkeypatch.setattr(vision, "run", lambda _: {"image_embeddings": np.zeros((1, 12, 32))})
    with pytest.raises(
        PromptError, match=r"vectors must be floats \(n, 64\); got float64 \(12, 32"
    ):
        system.infer(prepared)


def test_missing_stage_and_setting(bundle):
    found = bundle()
    stages = [stage for stage in found.manifest.stages if stage.name != "language"]
    with pytest.raises(BundleError, match="named 'language'; it has image, vision, mask"):
        open_system(
            replace(found, manifest=replace(found.manifest, stages=tuple(stages))),
            device="cpu",
            threads=1,
        )
    with pytest.raises(BundleError, match="settings must hold variant, .* KeyError"):
        open_system(
            replace(found, manifest=replace(found.manifest, settings=())), device="cpu", threads=1
        )


def test_the_missing_extra_is_named(bundle, monkeypatch):
    monkeypatch.setattr(llama_binding, "load", llama_binding.load.__wrapped__)
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"need llama.cpp, .*saymask\[llm\]"):
        open_system(bundle(), device="cpu", threads=1)


def test_on_the_command_line(bundle, frame, tmp_path, capsys):
    import cv2

    pytest.importorskip("xllamacpp")
    folder, picture = str(bundle().folder), str(tmp_path / "table.png")
    Path(picture).write_bytes(cv2.imencode(".png", frame)[1].tobytes())
    assert main(["info", folder]) == 0
    told = capsys.readouterr().out
    assert "the language model's own vocabulary" in told
    assert "language: words and vectors -> words" in told
    assert "count           0+" in told
    words = ["segment", picture, "--bundle", folder, "--prompt", "the red mug", "--threads", "1"]
    assert main([*words, "--json", "--device", "cpu"]) == 0
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["said"]["answer"].startswith("[281,251,863,999]\n")
    assert len(record["said"]["points"]) == 9
    assert set(record["said"]["points"][0]) == {"xy", "label", "yes", "no"}


def test_a_segmenter_like_any_other(bundle, frame):
    pytest.importorskip("xllamacpp")
    with Segmenter.open(bundle().folder, device="cpu", threads=1) as segmenter:
        masks = segmenter.segment(frame, ["the red mug", "it"])
        assert masks.labels == ("the red mug", "it")
        shared = segmenter.shared_questions(frame, "the red mug")
        assert segmenter.answer(frame, "Where is it?") == tiny_chat.BOX
    assert shared is not None
    assert len(shared.questions) == 9
