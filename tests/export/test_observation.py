"""What ran in FP32 is kept and found again, and a model that finds nothing is told so."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from saymask.calibration.samples import Sample
from saymask.export.observation import golden_arrays, observe
from saymask.export.pipeline import export
from saymask.export.recipe import ExportRecipe
from saymask.runtime.errors import CheckpointError, UsageError
from saymask.runtime.masks import Masks


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


class _Idle:
    """A system whose only stage is never needed, as nothing is found."""

    def with_engines(self, watch):
        watch(SimpleNamespace(stage=SimpleNamespace(name="mask")))
        return self

    def segment(self, frame, prompts):
        texts = [prompt.text for prompt in prompts]
        nothing = np.zeros((len(texts), *frame.shape[:2]), np.bool_)
        return Masks.of(nothing, np.zeros(len(texts), np.float32), texts)


def test_a_model_that_finds_nothing_cannot_be_judged():
    frame = np.zeros((6, 8, 3), np.uint8)
    samples = [Sample(frame=frame, texts=("the mug",), tasks=("single",), masks=None)]
    with pytest.raises(CheckpointError, match="mask did not, as the model found nothing in 1 pict"):
        observe(_Idle(), samples)
    with pytest.raises(CheckpointError, match="the first 2 phrases of some picture must run every"):
        golden_arrays(_Idle(), samples, {})
