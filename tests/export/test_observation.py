"""What ran in FP32 is kept and found again, and a model that finds nothing is told so."""

from __future__ import annotations

import tracemalloc
import weakref
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from saymask.calibration.arrays import StoredArrays
from saymask.calibration.recording import Run, output_folders
from saymask.calibration.samples import Sample
from saymask.export.observation import calibration_runs, golden_arrays, observe
from saymask.export.pipeline import export
from saymask.export.quantization import Reference
from saymask.export.recipe import ExportRecipe
from saymask.export.steps import Steps
from saymask.runtime.engine import open_engine
from saymask.runtime.errors import CheckpointError, UsageError
from saymask.runtime.masks import Masks
from saymask.runtime.systems import open_system


@pytest.mark.usefixtures("traced")
def test_ranges_may_come_from_pictures_of_the_users(tiny_checkpoint, tmp_path):
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("the red mug\nthe lamp\n")
    work, said = tmp_path / "work", []
    recipe = ExportRecipe(
        system="evf-sam",
        out=tmp_path / "small",
        checkpoint=str(tiny_checkpoint),
        precision="int8",
        target="rtx",
        max_iou_drop=100,
        sample_limit=2,
        threads=1,
        calib=str(tiny_checkpoint / "samples" / "*.jpg"),
        calib_images=1,
        calib_phrases=phrases,
        work=work,
    )
    export(recipe, said.append)
    assert any(line.startswith("calibrate on 1 pictures of ") for line in said)
    assert {path.name for path in work.iterdir()} >= {"image", "runs", "search.jsonl"}
    kept = {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("*.npy")}
    assert kept
    export(replace(recipe, out=tmp_path / "again"), said.append)
    assert {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("*.npy")} == kept
    (work / "runs" / "key.json").write_text('{"set of graphs": "of another network"}')
    with pytest.raises(UsageError, match="holds that of another set of graphs; delete that folder"):
        export(recipe, said.append)


class _Endless:
    """A system of one stage that makes 4 MiB of every picture, and one mask."""

    def __init__(self):
        self.stage, self.device = SimpleNamespace(name="image"), "cpu"
        self.engine, self.frames, self.masks = self, [], []

    def with_engines(self, watch):
        self.engine = watch(self)
        return self

    def run(self, inputs):
        return {"features": np.full(2**20, inputs["image"].mean(), np.float32)}

    def segment(self, frame, prompts):
        self.frames.append(weakref.ref(frame))
        self.engine.run({"image": frame.astype(np.float32)})
        mask = np.zeros((len(prompts), *frame.shape[:2]), np.bool_)
        self.masks.append(weakref.ref(mask))
        return Masks.of(mask, np.zeros(len(prompts), np.float32), ("",) * len(prompts))


def test_calibration_keeps_no_picture_and_no_mask(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(6):
        image_hwc = generator.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image_hwc)
    (tmp_path / "phrases.txt").write_text("the mug\n")
    recipe = ExportRecipe(
        system="evf-sam",
        out=tmp_path / "out",
        calib=str(tmp_path / "*.png"),
        calib_images=6,
        calib_phrases=tmp_path / "phrases.txt",
    )
    system, said = _Endless(), []
    draft, reference = SimpleNamespace(), Reference({}, {}, [])
    runs = calibration_runs(recipe, draft, system, (), reference, tmp_path, Steps(said.append))
    assert said == []
    assert len(runs["image"]) == 6
    assert not any(run.outputs.are_there for run in runs["image"])
    assert said == [f"read 6 pictures of {recipe.calib}"]
    assert list(runs) == ["image"]
    assert said[1:] == [f"calibrate on 6 pictures of {recipe.calib}"]
    assert len(system.frames) == 2 * len(system.masks) == 12
    assert not any(each() is not None for each in (*system.frames, *system.masks))
    assert all(run.outputs.are_there for run in runs["image"])


def test_what_calibration_computed_on_its_way_is_not_computed_again(
    fp32_bundle, tiny_checkpoint, tmp_path, monkeypatch
):
    phrases, opened, closed = tmp_path / "phrases.txt", [], []
    phrases.write_text("the red mug\n")
    recipe = ExportRecipe(
        system="evf-sam",
        out=tmp_path / "out",
        calib=str(tiny_checkpoint / "samples" / "*.jpg"),
        calib_images=2,
        calib_phrases=phrases,
        threads=1,
    )

    def spied(bundle, stage, **how):
        engine = open_engine(bundle, stage, **how)
        opened.append(stage)
        close = engine.close
        monkeypatch.setattr(engine, "close", lambda: (closed.append(stage), close()))
        return engine

    monkeypatch.setattr("saymask.export.observation.open_engine", spied)
    with closing(open_system(fp32_bundle, device="cpu", threads=1)) as system:
        reference = Reference(dict.fromkeys(("image", "prompt", "mask"), []), {}, [])
        runs = calibration_runs(
            recipe, fp32_bundle, system, (), reference, tmp_path, Steps(lambda line: None)
        )
        with closing(open_engine(fp32_bundle, "image", device="cpu", threads=1)) as image:
            for run, place in zip(runs["image"], output_folders(runs["image"]), strict=True):
                StoredArrays.write(place, image.run(run.inputs))
        assert opened == []
        assert [len(runs[name]) for name in ("prompt", "mask")] == [2, 2]
    assert opened == ["prompt", "mask"]
    assert sorted(closed) == ["mask", "prompt"]
    for before, after in zip(runs["image"], runs["mask"], strict=True):
        for name, array in before.outputs.items():
            np.testing.assert_array_equal(after.inputs[name], array)


def test_samples_that_are_one_picture_again_and_again_are_said_so(tmp_path, caplog):
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2)]
    runs = {"image": [Run({}, {})]}
    recipe = ExportRecipe(system="evf-sam", out=tmp_path / "out", samples=tmp_path)
    for count, warned in ((1, False), (3, True)):
        samples = [Sample(frame, ("it",), ("single",), None) for frame in frames * count]
        assert runs is calibration_runs(
            recipe,
            SimpleNamespace(),
            _Endless(),
            samples,
            Reference(runs, {}, []),
            tmp_path,
            Steps(print),
        )
        assert (f"of 6 frames in {tmp_path} only 2 differ" in caplog.text) == warned


class _Idle:
    """A system whose only stage is never needed, as nothing is found."""

    def with_engines(self, watch):
        watch(SimpleNamespace(stage=SimpleNamespace(name="mask")))
        return self

    def segment(self, frame, prompts):
        texts = [prompt.text for prompt in prompts]
        nothing = np.zeros((len(texts), *frame.shape[:2]), np.bool_)
        return Masks.of(nothing, np.zeros(len(texts), np.float32), texts)


def test_what_stages_compute_of_samples_lies_on_disk(tmp_path):
    samples = [
        Sample(np.full((4, 4, 3), n, np.uint8), ("the mug",), ("single",), None) for n in range(24)
    ]
    tracemalloc.start()
    runs = observe(_Endless(), samples, tmp_path).runs["image"]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [run.outputs["features"][0] for run in runs] == list(range(24))
    assert peak_bytes < 16 * 2**20, "4 MiB for each of 24 pictures would be 96"


def test_a_model_that_finds_nothing_cannot_be_judged(tmp_path):
    frame = np.zeros((6, 8, 3), np.uint8)
    samples = [Sample(frame=frame, texts=("the mug",), tasks=("single",), masks=None)]
    with pytest.raises(CheckpointError, match="mask did not, as the model found nothing in 1 pict"):
        observe(_Idle(), samples, tmp_path)
    with pytest.raises(CheckpointError, match="the first 2 phrases of some picture must run every"):
        golden_arrays(_Idle(), samples, {})
