"""A bundle and a frame in, the right masks out, with NumPy and an engine alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from saymask.runtime import (
    BundleError,
    DeviceError,
    EngineError,
    FrameError,
    Prompt,
    PromptError,
    Segmenter,
    UsageError,
)


@pytest.fixture(scope="module")
def segmenter(tiny_bundle):
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        yield segmenter


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def test_finds_what_is_said(segmenter, frame):
    masks = segmenter.segment(frame, ["a blue square", Prompt("the red square")])
    blue, red = (frame[..., 2] == 255), (frame[..., 0] == 255)
    assert masks.boolean.shape == (2, 90, 120)
    assert _iou(masks.boolean[0], blue) > 0.8
    assert _iou(masks.boolean[1], red) > 0.8
    np.testing.assert_allclose(masks.boxes_xyxy, [[70, 30, 110, 70], [10, 20, 50, 60]], atol=2.5)
    assert (masks.scores > 0.7).all()
    assert masks.labels == ("a blue square", "the red square")
    assert masks.answer == ""


def test_finds_nothing(segmenter, frame):
    masks = segmenter.segment(frame, "the green square")
    assert len(masks) == 1
    assert not masks.boolean.any()
    assert masks.boxes_xyxy.tolist() == [[0, 0, 0, 0]]
    assert masks.scores.tolist() == [0]


def test_keeps_nothing_from_frame_to_frame(segmenter, frame):
    first = segmenter.segment(frame, "the red square")
    segmenter.segment(frame[::-1, ::-1], ["a blue one", "the green square"])
    again = segmenter.segment(frame, "the red square")
    np.testing.assert_array_equal(first.boolean, again.boolean)
    np.testing.assert_array_equal(first.scores, again.scores)


def test_bad_frame_and_prompts(segmenter, frame):
    with pytest.raises(FrameError, match="got float32"):
        segmenter.segment(frame.astype(np.float32), "red")
    with pytest.raises(PromptError, match="must hold words"):
        segmenter.segment(frame, " ")
    with pytest.raises(PromptError, match="at most 16 tokens .* got 22"):
        segmenter.segment(frame, "red " * 20)


def test_the_steps_are_the_whole(segmenter, frame):
    prompts = ["the red square", "blue"]
    whole = segmenter.segment(frame, prompts)
    masks = segmenter.finish(segmenter.infer(segmenter.prepare(frame, prompts)))
    np.testing.assert_array_equal(masks.boolean, whole.boolean)
    assert masks.labels == whole.labels == tuple(prompts)


def test_a_template_wraps_what_is_read_but_not_the_labels(tiny_bundle, frame):
    with Segmenter.open(tiny_bundle, device="cpu", threads=1, template="semantic") as segmenter:
        assert segmenter.segment(frame, ["red", "blue one"]).labels == ("red", "blue one")
        with pytest.raises(PromptError, match=r"at most 16 tokens .* in '\[semantic\] red"):
            segmenter.check_prompts("red " * 20)
    with pytest.raises(UsageError, match="must be one of semantic; got 'poetic'"):
        Segmenter.open(tiny_bundle, device="cpu", template="poetic")


def test_prompts_are_checked_without_a_frame(segmenter):
    segmenter.check_prompts(["the red square", Prompt("blue")])
    for prompts, said in (
        (" ", "must hold words"),
        ("red " * 5000, "at most 16 tokens"),
        ([], "at least one"),
    ):
        with pytest.raises(PromptError, match=said):
            segmenter.check_prompts(prompts)


def test_no_language_model_no_words(segmenter, frame):
    with pytest.raises(UsageError, match="must go to a system with a language model; tiny is of"):
        segmenter.answer(frame, "How many squares are there?")
    with pytest.raises(PromptError, match="must hold words"):
        segmenter.answer(frame, " ")


def test_found_by_name(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "mine").symlink_to(tiny_bundle)
    monkeypatch.chdir(tmp_path)
    with Segmenter.open("mine", device="cpu") as segmenter:
        assert segmenter.bundle.folder == tiny_bundle.resolve()
        assert segmenter.device == "cpu"
    with pytest.raises(BundleError, match="looked for yours and bundles/yours in .*export"):
        Segmenter.open("yours")


def test_a_device_that_does_not_work(tiny_bundle):
    with pytest.raises(DeviceError, match="cuda:99 does not"):
        Segmenter.open(tiny_bundle, device="cuda:99")


def test_closed(tiny_bundle, frame):
    with Segmenter.open(tiny_bundle, device="cpu") as segmenter:
        pass
    with pytest.raises(EngineError, match="was closed"):
        segmenter.segment(frame, "red")


LEAN = """
import sys
import numpy as np

class Blocked:
    def find_spec(self, name, path=None, target=None):
        ours = name.split(".")[:2]
        if ours[0] in {"torch", "onnx", "cv2", "av", "PIL", "pycocotools", "transformers"}:
            raise ImportError(name)
        if ours[0] == "saymask" and ours[-1] in {"calibration", "export", "train"}:
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
from saymask.runtime import Segmenter
frame = np.full((90, 120, 3), 128, np.uint8)
frame[20:60, 10:50] = 255, 0, 0
with Segmenter.open(sys.argv[1], device="cpu") as segmenter:
    print(segmenter.segment(frame, "the red square").boolean.sum() > 1000)
"""

BARE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names | {"numpy", "saymask"}:
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
import saymask.runtime
print(len(sys.modules))
"""


def _output(program: str, *arguments: object) -> str:
    command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_runs_without_the_floors_above(tiny_bundle):
    assert _output(LEAN, tiny_bundle) == "True"


def test_imports_with_numpy_alone():
    assert int(_output(BARE)) < 250
