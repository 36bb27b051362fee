"""ONNX Runtime computes the stages, and its refusals name the stage and the cure."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from saymask.runtime.backends.onnxruntime import open_graph
from saymask.runtime.bundle import Bundle
from saymask.runtime.engine import open_engine
from saymask.runtime.errors import DeviceError, EngineError, MissingExtraError

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture
def bundle(tiny_bundle) -> Bundle:
    return Bundle.read(tiny_bundle)


def _replay(bundle: Bundle, stage: str, device: str) -> None:
    engine = open_engine(bundle, stage, device=device, threads=1)
    assert engine.stage == bundle.stage(stage)
    assert engine.device == device
    golden = bundle.golden()
    outputs = engine.run(
        {tensor.name: golden[f"{stage}/{tensor.name}"] for tensor in engine.stage.inputs}
    )
    assert set(outputs) == {tensor.name for tensor in engine.stage.outputs}
    for name, output in outputs.items():
        np.testing.assert_allclose(output, golden[f"{stage}/{name}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", ["image", "prompt", "mask"])
def test_golden_on_the_cpu(bundle, stage):
    _replay(bundle, stage, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["image", "prompt", "mask"])
def test_golden_on_cuda(bundle, stage):
    _replay(bundle, stage, "cuda:0")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:99"])
@pytest.mark.skipif(HAS_CUDA, reason="CUDA works here")
def test_an_explicit_device_must_work(bundle, device):
    with pytest.raises(DeviceError, match=r"cuda:\d+ does not: .* has no CUDA"):
        open_engine(bundle, "image", device=device)


@pytest.mark.gpu
def test_an_index_out_of_range(bundle):
    with pytest.raises(DeviceError, match="cuda:99 does not"):
        open_engine(bundle, "image", device="cuda:99")


@pytest.mark.skipif(HAS_CUDA, reason="CUDA works here")
def test_auto_takes_the_cpu_and_says_so(bundle, caplog):
    with caplog.at_level(logging.INFO, "saymask"):
        assert open_engine(bundle, "image", device="auto").device == "cpu"
    assert "device auto takes the CPU: this onnxruntime has no CUDA" in caplog.text


def test_cuda_that_does_not_start(bundle, monkeypatch, caplog):
    """An onnxruntime-gpu without a driver lists CUDA and then opens the CPU."""
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    if HAS_CUDA:
        pytest.skip("CUDA works here")
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        assert open_engine(bundle, "image", device="auto").device == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(DeviceError, match="cuda:1 does not: .*doctor"),
    ):
        open_engine(bundle, "image", device="cuda:1")


def test_threads_keep_to_the_allowed_cores(bundle, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    engine = open_engine(bundle, "image", device="cpu")
    assert engine._session.get_session_options().intra_op_num_threads == 1


def test_a_file_that_is_no_graph(bundle, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\x00broken")
    with pytest.raises(EngineError, match=r"ONNX Runtime \S+ refuses .*broken\.onnx"):
        open_graph(tmp_path / "broken.onnx", bundle.stage("image"), device="cpu", threads=1)


def test_the_graph_of_another_stage(bundle):
    stage = replace(bundle.stage("image"), file="stages/mask.onnx")
    with pytest.raises(EngineError, match="must have the inputs image; got image_embedding, pro"):
        open_graph(bundle.folder / stage.file, stage, device="cpu", threads=1)


def test_a_run_that_fails(bundle):
    engine = open_engine(bundle, "prompt", device="cpu")
    image, unknown_ids = np.zeros((1, 3, 32, 32), np.float32), np.full((1, 2), 10**6)
    with pytest.raises(EngineError, match="stage 'prompt' failed in ONNX Runtime"):
        engine.run({"image": image, "token_ids": unknown_ids})


def test_closed(bundle):
    engine = open_engine(bundle, "image", device="cpu")
    engine.close()
    with pytest.raises(EngineError, match="stage 'image' was closed"):
        engine.run({"image": np.zeros((1, 3, 64, 64), np.float32)})


def test_without_onnxruntime(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime'.*saymask\[cpu\]"):
        open_engine(bundle, "image")
