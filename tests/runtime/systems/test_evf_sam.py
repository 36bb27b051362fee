"""EVF-SAM encodes the frame once and refuses prompts it cannot read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import BundleError, PromptError, UnknownNameError
from saymask.runtime.prompt import Prompt
from saymask.runtime.systems import open_system


@pytest.fixture
def bundle(tiny_bundle) -> Bundle:
    return Bundle.read(tiny_bundle)


def test_one_encoding_for_all_prompts(bundle, frame, monkeypatch):
    system = open_system(bundle, device="cpu", threads=1)
    runs = Counter()
    for name, engine in system._engines.items():
        run = engine.run
        monkeypatch.setattr(
            engine, "run", lambda inputs, run=run, name=name: runs.update([name]) or run(inputs)
        )
    masks = system.segment(frame, (Prompt("the red square"), Prompt("a blue one")))
    assert len(masks) == 2
    assert runs == {"image": 1, "prompt": 1, "mask": 1}
    stages = [stage for stage, _ in masks.timings_ms]
    assert stages == ["words", "views", "image", "prompt", "mask", "back"]


def test_together_as_alone(bundle, frame):
    system = open_system(bundle, device="cpu", threads=1)
    prompts = tuple(map(Prompt, ("the red square left of a blue one", "blue")))
    together = system.segment(frame, prompts)
    for index, prompt in enumerate(prompts):
        alone = system.segment(frame, (prompt,))
        np.testing.assert_array_equal(together.boolean[index], alone.boolean[0])
        np.testing.assert_allclose(together.scores[index], alone.scores[0], rtol=1e-6)


@pytest.mark.parametrize(
    "prompt", [Prompt("it", references=(np.ones((4, 4)),)), Prompt("it", history=("mug",))]
)
def test_words_alone(bundle, frame, prompt):
    system = open_system(bundle, device="cpu", threads=1)
    with pytest.raises(PromptError, match="reads words alone; .* 'it'"):
        system.segment(frame, (prompt,))


def test_three_steps_on_frames_that_overtake_each_other(bundle, frame):
    system = open_system(bundle, device="cpu", threads=1)
    prompts = (Prompt("the red square"),)
    first, second = (system.prepare(image, prompts) for image in (frame, frame[:, ::-1]))
    inferred = system.infer(second), system.infer(first)
    for image, work in zip((frame[:, ::-1], frame), inferred, strict=True):
        for masks in (system.finish(work), system.finish(work)):
            np.testing.assert_array_equal(
                masks.boolean, system.segment(image, prompts).boolean, strict=True
            )
            stages = [stage for stage, _ in masks.timings_ms]
            assert stages == ["words", "views", "image", "prompt", "mask", "back"]


def test_prompts_are_checked_without_a_frame(bundle):
    system = open_system(bundle, device="cpu", threads=1)
    system.check_prompts((Prompt("the red square"), Prompt("blue")))
    with pytest.raises(PromptError, match="at most 16 tokens"):
        system.check_prompts((Prompt("blue"), Prompt("red " * 5000)))
    with pytest.raises(PromptError, match="reads words alone"):
        system.check_prompts((Prompt("it", history=("mug",)),))


def test_missing_stage(bundle):
    manifest = replace(bundle.manifest, stages=bundle.manifest.stages[:2])
    with pytest.raises(BundleError, match="named 'mask'; it has image, prompt;"):
        open_system(replace(bundle, manifest=manifest), device="cpu", threads=1)


def test_unknown_system(bundle):
    manifest = replace(bundle.manifest, system="sam-42")
    with pytest.raises(UnknownNameError, match=r"system must be one of evf-sam, .*; got 'sam-42'"):
        open_system(replace(bundle, manifest=manifest), device="cpu", threads=1)
