"""The shipped SAM4MLLM miniature from its checkpoint to masks, as a user gets them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from saymask.runtime.cli import main
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.pages import save_image
from saymask.train.world.speak import express

from .right_words import mean_gious

pytestmark = pytest.mark.skipif(not find_spec("xllamacpp"), reason="xllamacpp is not installed")

WITHOUT_TRAINING_FRAMEWORKS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "transformers", "gguf"):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Blocked())
import numpy as np
from saymask.runtime import Segmenter

with Segmenter.open(sys.argv[1], device="cpu") as segmenter:
    masks = segmenter.segment(np.zeros((48, 64, 3), np.uint8), "the red mug")
print(masks.boolean.shape)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Folder of the miniature's INT8 bundle; read it, don't change it."""
    folder = tmp_path_factory.mktemp("language") / "sam4mllm-mini-int8"
    limits = ["--sample-limit", "4", "--max-iou-drop", "20"]  # So few samples say little.
    words = ["export", "sam4mllm", "--int8", *limits, "--out", str(folder)]
    assert main(words) == 0
    return folder


def test_words_pick_the_right_thing(bundle: Path) -> None:
    """Right words must beat another scene's words by far, or the words are not understood."""
    right, wrong = mean_gious(bundle, range(12))
    assert right > 0.5
    assert wrong < 0.6 * right


def test_segment_prints_what_was_said(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "table.png"
    drawing = draw(compose(4, "test"), (480, 640))
    save_image(picture, drawing.image_hwc)
    (phrase, *_) = express(drawing, seed=4, tasks=("single",), per_task=1)
    words = ["segment", str(picture), "--bundle", str(bundle), "--json", "--prompt", phrase.text]
    assert main(words) == 0
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    said = line["said"]
    assert said["answer"]
    assert len(said["boxes_xyxy"]) == 1
    assert len(said["points"]) == 25
    for point in said["points"]:
        assert 0 <= point["yes"] + point["no"] <= 1 + 1e-5


def test_check_finds_the_bundle_sound(bundle: Path) -> None:
    assert main(["check", str(bundle)]) == 0


def test_the_runtime_needs_no_training_framework(bundle: Path) -> None:
    words = [sys.executable, "-P", "-c", WITHOUT_TRAINING_FRAMEWORKS, str(bundle)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "(1, 48, 64)", done.stderr
