"""The shipped miniature from its checkpoint to masks, as a user gets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from saymask.kernels import rle
from saymask.runtime import Bundle
from saymask.runtime.cli import main
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.pages import save_image

from .right_words import mean_gious

WITHOUT_TRAINING_FRAMEWORKS = """
import sys

class Blocked:
    names = ("torch", "onnx", "saymask.calibration", "saymask.export", "saymask.train")

    def find_spec(self, name, path=None, target=None):
        if name.startswith(self.names) and not name.startswith("onnxruntime"):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Blocked())
import numpy as np
from saymask.runtime import Segmenter

with Segmenter.open(sys.argv[1], device="cpu") as segmenter:
    masks = segmenter.segment(np.zeros((48, 64, 3), np.uint8), "the red mug")
print(masks.boolean.shape)
"""


def test_the_bundle_says_what_int8_cost(miniature: Path) -> None:
    manifest = Bundle.read(miniature).manifest
    (overall,) = (row for row in manifest.quality if row.task == "all")
    assert overall.fp32 - overall.this <= 0.01
    assert overall.fp32 > 0.4
    assert {row.stage for row in manifest.latency} == {"image", "prompt", "mask"}
    for stage in manifest.stages:
        assert stage.reason
        candidates = {row.precision: row for row in manifest.latency if row.stage == stage.name}
        assert candidates[stage.precision].is_taken


def test_words_pick_the_right_thing(miniature: Path) -> None:
    """Right words must beat another scene's words by far, or the words are not understood."""
    right, wrong = mean_gious(miniature, range(40))
    assert right > 0.5
    assert wrong < 0.6 * right


def test_segment_prints_a_line_for_each_phrase(
    miniature: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "table.png"
    save_image(picture, draw(compose(4, "test"), (480, 640)).image_hwc)
    words = ["segment", str(picture), "--bundle", str(miniature), "--json"]
    assert main([*words, "--prompt", "the red mug", "--prompt", "the yellow car"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["phrase"] for line in lines] == ["the red mug", "the yellow car"]
    for line in lines:
        assert line["size"] == [480, 640]
        assert rle.decode(line["rle"]).shape == (480, 640)
        assert len(line["box_xyxy"]) == 4
        assert 0 <= line["score"] <= 1
        assert {"image", "prompt", "mask"} <= set(line["times_ms"])


def test_check_finds_the_bundle_sound(miniature: Path) -> None:
    assert main(["check", str(miniature)]) == 0


def test_the_runtime_needs_no_training_framework(miniature: Path) -> None:
    words = [sys.executable, "-P", "-c", WITHOUT_TRAINING_FRAMEWORKS, str(miniature)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "(1, 48, 64)", done.stderr
