"""TensorRT's engines are refused with a cure, and run with what stays on the device."""

from __future__ import annotations

import ctypes
import logging
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from saymask.runtime import engine_cache
from saymask.runtime.backends.tensorrt import TensorRtEngine
from saymask.runtime.bundle import Bundle
from saymask.runtime.cuda import DeviceArray, Stream
from saymask.runtime.engine import open_engine
from saymask.runtime.errors import DeviceError, EngineError, MissingExtraError

IMAGE = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
PROMPTS = np.ones((2, 1, 4), np.float32)
ERROR = "the kernel is missing"


class Context:
    """An execution context that adds up its inputs in place of a network."""

    def __init__(self, cuda, stage):
        self.cuda, self.stage = cuda, stage
        self.shapes = {t.name: t.shape for t in (*stage.inputs, *stage.outputs)}
        self.phrases, self.addresses, self.runs, self.is_broken = -1, {}, 0, False

    def set_input_shape(self, name, shape):
        if "phrases" in self.shapes[name]:
            self.phrases = shape[self.shapes[name].index("phrases")]
        return True

    def get_tensor_shape(self, name):
        """As TensorRT says it: -1 where no input has settled an axis."""
        return tuple(self.phrases if axis == "phrases" else axis for axis in self.shapes[name])

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle):
        assert stream_handle == 7
        if not self.is_broken:
            self.runs += 1
            self.cuda.queue(self._compute)
        return not self.is_broken

    def _compute(self):
        total = sum(float(self._array(t).sum()) for t in self.stage.inputs)
        for tensor in self.stage.outputs:
            self._array(tensor)[...] = total

    def _array(self, tensor):
        shape = self.get_tensor_shape(tensor.name)
        pointer = ctypes.cast(self.addresses[tensor.name], ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, shape)


@pytest.fixture
def make(host_cuda, engine_bundle):
    """Opens a stage on a context that computes on the host."""
    folder = engine_bundle()
    bundle = Bundle.read(folder)
    reports = {report.stage: report for _, report in engine_cache.read_reports(folder)}

    def open_stage(name: str, phrases: int = 4) -> TensorRtEngine:
        stage, log = bundle.stage(name), ModuleType("log")
        log.errors = [ERROR]
        context = Context(host_cuda, stage)
        shapes = tuple(
            replace(limits, most=(phrases, *limits.most[1:])) if limits.least != limits.most
            else limits
            for limits in reports[name].shapes
        )  # fmt: skip
        report = replace(reports[name], shapes=shapes)
        return TensorRtEngine(context, log, stage, report, Stream(0, extra="tensorrt"))

    return open_stage


@pytest.fixture
def tensorrt(monkeypatch) -> None:
    library = ModuleType("tensorrt")
    library.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", library)


def test_fixed_shapes_replay_a_graph(make, host_cuda):
    engine = make("image")
    results = [engine.run({"image": IMAGE * scale})["image_embedding"] for scale in (1, 2, 3)]
    assert host_cuda.launches == 2
    assert engine._context.runs == 2, "one run, and one that was recorded"
    for scale, result in zip((1, 2, 3), results, strict=True):
        assert isinstance(result, DeviceArray)
        np.testing.assert_allclose(result, (IMAGE * scale).sum(), rtol=1e-4)
    assert engine.device == "cuda:0"


def test_an_engine_for_one_phrase_replays_a_graph_too(make, host_cuda):
    """Its graph's axis still varies, so that only the input says how long the outputs are."""
    mask = make("mask", phrases=1)
    features = np.ones((1, 4, 16, 16), np.float32)
    for scale in (1, 2):
        prompt = PROMPTS[:1] * scale
        logits = mask.run({"image_embedding": features, "prompt_embedding": prompt})["logits"]
        assert logits.shape == (1, 1, 64, 64)
        np.testing.assert_allclose(logits, features.sum() + prompt.sum(), rtol=1e-4)
    assert host_cuda.launches == 1


@pytest.mark.parametrize("fails_in", ["CUDA", "TensorRT"])
def test_a_recording_that_fails_is_told_once_and_nothing_is_lost(
    make, host_cuda, monkeypatch, caplog, fails_in
):
    engine = make("image")
    context, begin = engine._context, host_cuda.cudaStreamBeginCapture
    if fails_in == "CUDA":
        host_cuda.captures_fail = True
    else:

        def break_and_begin(stream, mode):
            context.is_broken = True
            return begin(stream, mode)

        monkeypatch.setattr(host_cuda, "cudaStreamBeginCapture", break_and_begin)
    for scale in (1, 2, 3):
        with caplog.at_level(logging.WARNING, logger="saymask"):
            result = engine.run({"image": IMAGE * scale})["image_embedding"]
        context.is_broken = False
        np.testing.assert_allclose(result, (IMAGE * scale).sum(), rtol=1e-4)
    assert (host_cuda.launches, host_cuda.graphs) == (0, 0)
    (said,) = caplog.messages
    assert said.startswith("stage image runs without a CUDA graph, which costs some time: ")
    assert said.endswith(ERROR if fails_in == "TensorRT" else "or run: saymask doctor")


def test_what_cannot_be_recorded_runs_without(make, host_cuda):
    engine = make("image")
    engine._context.is_stream_capturable = lambda stream_handle: False
    for scale in (1, 2):
        result = engine.run({"image": IMAGE * scale})["image_embedding"]
        np.testing.assert_allclose(result, (IMAGE * scale).sum(), rtol=1e-4)
    assert (engine._context.runs, host_cuda.launches) == (2, 0)


def test_a_stage_takes_what_another_left_on_the_device(make, monkeypatch):
    image = make("image").run({"image": IMAGE})
    mask = make("mask")
    monkeypatch.setattr(DeviceArray, "__array__", lambda *_: pytest.fail("copied to the host"))
    outputs = mask.run({**image, "prompt_embedding": PROMPTS})
    assert mask._context.addresses["image_embedding"] == image["image_embedding"].address
    monkeypatch.undo()
    assert outputs["logits"].shape == (2, 1, 64, 64)
    expected = np.asarray(image["image_embedding"]).sum() + PROMPTS.sum()
    np.testing.assert_allclose(outputs["logits"][:, 0], expected, rtol=1e-4)


def test_inputs_that_are_not_contiguous_are_read_right(make):
    image, turned = make("image"), np.flip(IMAGE * np.arange(64, dtype=np.float32), axis=-1)
    result = image.run({"image": turned})["image_embedding"]
    np.testing.assert_allclose(result, turned.sum(), rtol=1e-3)


def test_more_than_the_engine_takes(make):
    image = np.zeros((1, 4, 16, 16), np.float32)
    with pytest.raises(EngineError, match=r"prompt_embedding .* to \(4, 1, 4\).* got \(5, 1, 4\)"):
        make("mask").run(
            {"image_embedding": image, "prompt_embedding": np.zeros((5, 1, 4), np.float32)}
        )
    with pytest.raises(EngineError, match="takes image as float32"):
        make("image").run({"image": IMAGE[..., 1:]})


def test_a_run_that_fails_and_a_closed_engine(make, host_cuda):
    engine = make("image")
    engine._context.is_broken = True
    with pytest.raises(EngineError, match=f"stage 'image' failed in tensorrt: {ERROR}"):
        engine.run({"image": IMAGE})
    engine.close()
    engine.close()
    assert not host_cuda.blocks
    with pytest.raises(EngineError, match="stage 'image' was closed"):
        engine.run({"image": IMAGE})


def test_without_the_library(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"saymask\[tensorrt\]"):
        open_engine(Bundle.read(tiny_bundle), "image", backend="tensorrt")


@pytest.mark.usefixtures("tensorrt", "no_gpu")
def test_without_a_gpu(engine_bundle):
    bundle = Bundle.read(engine_bundle())
    with pytest.raises(DeviceError, match="runs on a CUDA device; got device 'cpu'"):
        open_engine(bundle, "image", device="cpu", backend="tensorrt")
    with pytest.raises(DeviceError, match="this machine has 0"):
        open_engine(bundle, "image", device="cuda", backend="tensorrt")


@pytest.mark.usefixtures("tensorrt", "gpu")
def test_an_engine_of_another_version(engine_bundle):
    bundle = Bundle.read(engine_bundle(version="11.3.0"))
    with pytest.raises(DeviceError, match="11.3.0; got 10.3.0; run: saymask build .* --fp16"):
        open_engine(bundle, "image", backend="tensorrt")
