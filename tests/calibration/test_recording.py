from contextlib import closing
from functools import partial

import numpy as np
import pytest

from saymask.calibration.arrays import StoredArrays
from saymask.calibration.recording import Recorder, output_folders
from saymask.calibration.samples import Sample
from saymask.runtime.bundle import Bundle
from saymask.runtime.engine import open_engine
from saymask.runtime.errors import EngineError
from saymask.runtime.prompt import prompts_from
from saymask.runtime.systems import open_system

PHRASES = ["the red square", "the blue square left of a red one", "green"]


class Counting:
    """Tells that an engine ran."""

    def __init__(self, ran, engine):
        self.ran, self.engine, self.stage = ran, engine, engine.stage

    def run(self, inputs):
        self.ran.append(self.stage.name)
        return self.engine.run(inputs)


@pytest.fixture
def system(tiny_bundle):
    with closing(open_system(Bundle.read(tiny_bundle), device="cpu", threads=1)) as system:
        yield system


def test_every_stage_is_seen_with_what_comes_from_the_one_before(system, frame):
    recorder = Recorder()
    watched = system.with_engines(recorder.watch)
    for phrases in (PHRASES, PHRASES[:1]):
        watched.segment(frame, prompts_from(phrases))
    assert {stage: len(runs) for stage, runs in recorder.runs.items()} == {
        "image": 2, "prompt": 2, "mask": 2,
    }  # fmt: skip
    for image, prompt, mask in zip(*recorder.runs.values(), strict=True):
        assert mask.inputs["image_embedding"] is image.outputs["image_embedding"]
        assert mask.inputs["prompt_embedding"] is prompt.outputs["prompt_embedding"]
    counts = [len(feed["token_ids"]) for feed in recorder.feeds("prompt")]
    assert counts == [3, 1]
    assert [feed["token_ids"].dtype for feed in recorder.feeds("prompt")] == [np.int64] * 2


def test_an_interrupted_recording_computes_no_run_twice(system, frame, tmp_path):
    first = Recorder(tmp_path)
    system.with_engines(first.watch).segment(frame, prompts_from(PHRASES))
    ran = []
    watched = system.with_engines(partial(Counting, ran)).with_engines(Recorder(tmp_path).watch)
    watched.segment(frame, prompts_from(PHRASES))
    assert ran == []
    found = watched.segment(frame, prompts_from(PHRASES))
    assert ran == ["image", "prompt", "mask"]
    again = Recorder(tmp_path)
    other = system.with_engines(partial(Counting, ran)).with_engines(again.watch)
    other.segment(frame, prompts_from(PHRASES[:1]))
    assert ran[3:] == ["prompt", "mask"], "other phrases, the same picture"
    assert found.boolean.any()


def test_a_brief_recording_leaves_outputs_to_whoever_sees_them(system, frame, tmp_path):
    ran = []
    samples = [Sample(frame, tuple(PHRASES), ("single",) * 3, None)] * 2
    watched = system.with_engines(partial(Counting, ran))
    brief, whole = Recorder(tmp_path, is_brief=True), Recorder(tmp_path)
    brief.record(watched, samples)
    assert {name: len(runs) for name, runs in brief.runs.items()} == {
        "image": 2, "prompt": 0, "mask": 0,
    }  # fmt: skip
    assert ran == []
    first, second = output_folders(brief.runs["image"])
    expected = Recorder()
    system.with_engines(expected.watch).segment(frame, prompts_from(PHRASES))
    image, prompt, mask = (runs[0] for runs in expected.runs.values())
    StoredArrays.write(first, image.outputs)
    whole.record(watched, samples)
    assert ran == ["prompt", "mask", "image", "prompt", "mask"]
    assert output_folders(whole.runs["image"]) == (first, second)
    assert output_folders([image]) == (), "in memory"
    for runs in (brief.runs["image"], whole.runs["image"]):
        for run in runs:
            np.testing.assert_array_equal(
                run.outputs["image_embedding"], image.outputs["image_embedding"]
            )


def test_what_is_kept_is_not_the_engines_own(system, frame):
    recorder = Recorder()
    given = []

    class Keeping:
        """Hands on what an engine gives."""

        def __init__(self, engine):
            self.engine, self.stage = engine, engine.stage

        def run(self, inputs):
            given.append(self.engine.run(inputs))
            return given[-1]

    system.with_engines(Keeping).with_engines(recorder.watch).segment(frame, prompts_from(PHRASES))
    for runs, arrays in zip(recorder.runs.values(), given, strict=True):
        for name, array in runs[0].outputs.items():
            assert (array == arrays[name]).all()
            assert not np.shares_memory(array, arrays[name])


def test_watching_changes_no_mask(system, frame):
    found = system.with_engines(Recorder().watch).segment(frame, prompts_from(PHRASES))
    expected = system.segment(frame, prompts_from(PHRASES))
    assert expected.boolean.any()
    assert (found.boolean == expected.boolean).all()


def test_a_watched_engine_is_like_its_own(tiny_bundle):
    engine = open_engine(Bundle.read(tiny_bundle), "prompt", device="cpu", threads=1)
    recorder = Recorder()
    watched = recorder.watch(engine)
    assert (watched.stage, watched.device) == (engine.stage, "cpu")
    with pytest.raises(EngineError, match="takes image, token_ids"):
        watched.run({})
    assert recorder.feeds("prompt") == []
    watched.close()
    golden = Bundle.read(tiny_bundle).golden()
    with pytest.raises(EngineError, match="closed"):
        engine.run({name: golden[f"prompt/{name}"] for name in ("image", "token_ids")})


def test_two_engines_of_one_stage_share_its_list(tiny_bundle):
    bundle = Bundle.read(tiny_bundle)
    recorder, golden = Recorder(), bundle.golden()
    for _ in range(2):
        with closing(open_engine(bundle, "image", device="cpu", threads=1)) as engine:
            recorder.watch(engine).run({"image": golden["image/image"]})
    assert len(recorder.runs["image"]) == 2


def test_runs_on_disk_are_like_those_in_memory(system, frame, tmp_path):
    recorders = Recorder(), Recorder(tmp_path)
    for recorder in recorders:
        watched = system.with_engines(recorder.watch)
        for phrases in (PHRASES, PHRASES[:1]):
            watched.segment(frame, prompts_from(phrases))
    for stage, expected in recorders[0].runs.items():
        for kept, run in zip(recorders[1].runs[stage], expected, strict=True):
            for found, arrays in ((kept.inputs, run.inputs), (kept.outputs, run.outputs)):
                assert list(found) == list(arrays)
                for name, array in arrays.items():
                    assert isinstance(found[name], np.memmap)
                    np.testing.assert_array_equal(found[name], array)


def test_runs_on_disk_are_feeds(system, frame, tmp_path, tiny_bundle):
    recorder = Recorder(tmp_path)
    system.with_engines(recorder.watch).segment(frame, prompts_from(PHRASES))
    for stage, (run,) in recorder.runs.items():
        with closing(
            open_engine(Bundle.read(tiny_bundle), stage, device="cpu", threads=1)
        ) as engine:
            again = engine.run(recorder.feeds(stage)[0])
        for name, array in run.outputs.items():
            np.testing.assert_allclose(again[name], array)
