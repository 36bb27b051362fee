"""Engines are found by name, and their inputs are checked against the stage."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.engine import check_inputs, open_engine, open_engines
from saymask.runtime.errors import (
    BundleError,
    DeviceError,
    EngineError,
    MissingExtraError,
    UnknownNameError,
    UsageError,
)

IMAGE = np.zeros((1, 3, 32, 32), np.float32)
IDS = np.zeros((2, 5), np.int64)


@pytest.fixture
def bundle(tiny_bundle) -> Bundle:
    return Bundle.read(tiny_bundle)


def test_several_engines_share_the_device(bundle):
    engines = open_engines(bundle, ("image", "mask"), threads=1)
    assert list(engines) == ["image", "mask"]
    assert len({engine.device for engine in engines.values()}) == 1


@pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed")
def test_a_bundle_for_openvino_runs_there(bundle):
    other = replace(bundle, manifest=replace(bundle.manifest, target="openvino"))
    ours, theirs = (open_engine(each, "image", threads=1) for each in (bundle, other))
    assert type(theirs).__name__ == "OpenVinoEngine"
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    found, expected = (each.run({"image": image})["image_embedding"] for each in (theirs, ours))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_bundle_for_openvino_names_the_extra(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'saymask\[openvino\]'"):
        open_engine(replace(bundle, manifest=replace(bundle.manifest, target="openvino")), "image")


def test_a_target_of_a_newer_saymask(bundle):
    other = replace(bundle, manifest=replace(bundle.manifest, target="abacus"))
    with pytest.raises(BundleError, match="must be for one of cpu, openvino, .*; got 'abacus'"):
        open_engine(other, "image")


def test_unknown_names(bundle):
    with pytest.raises(UnknownNameError, match="backend must be one of onnx.*_rtx; got 'abacus'"):
        open_engine(bundle, "image", backend="abacus")
    with pytest.raises(BundleError, match="named 'video'"):
        open_engine(bundle, "video")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CPU", ""])
def test_device_that_makes_no_sense(bundle, device):
    with pytest.raises(UsageError, match="device must be auto, cpu, cuda or cuda:N; got"):
        open_engine(bundle, "image", device=device)


@pytest.mark.parametrize("threads", [0, -2])
def test_threads_that_make_no_sense(bundle, threads):
    with pytest.raises(UsageError, match="threads must be at least 1; got"):
        open_engine(bundle, "image", threads=threads)


def test_any_extent_on_a_named_axis(bundle):
    check_inputs(bundle.stage("prompt"), {"image": IMAGE, "token_ids": IDS})
    check_inputs(bundle.stage("prompt"), {"image": IMAGE, "token_ids": IDS[:1, :3]})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": IMAGE}, "takes image, token_ids; got image"),
        ({"image": IMAGE, "ids": IDS}, "takes image, token_ids; got image, ids"),
        ({"image": IMAGE, "token_ids": IDS.astype(np.int32)}, r"got int32 \(2, 5\)"),
        ({"image": IMAGE, "token_ids": IDS[0]}, r"int64 \(phrases, tokens\); got int64 \(5,\)"),
        ({"image": IMAGE[..., 1:], "token_ids": IDS}, r"\(1, 3, 32, 32\); got float32 \(1, 3"),
    ],
)
def test_inputs_that_do_not_fit(bundle, inputs, message):
    with pytest.raises(EngineError, match=f"stage 'prompt' .*{message}"):
        check_inputs(bundle.stage("prompt"), inputs)


@pytest.mark.parametrize(("machine", "level"), [("gpu", "WARNING"), ("no_gpu", "INFO")])
def test_engines_that_do_not_fit_leave_the_graph_to_onnxruntime(
    engine_bundle, caplog, request, machine, level
):
    request.getfixturevalue(machine)
    bundle = Bundle.read(engine_bundle(sm=(87,)))
    with caplog.at_level(logging.INFO, "saymask"):
        assert open_engine(bundle, "image", threads=1).device
    assert caplog.records[0].levelname == level
    assert "stage image takes its graph: " in caplog.records[0].getMessage()


@pytest.mark.usefixtures("no_gpu")
def test_an_explicit_device_tells_why_its_engine_does_not_work(engine_bundle, monkeypatch):
    import onnxruntime

    library = ModuleType("tensorrt")
    library.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    folder = engine_bundle()
    with pytest.raises(DeviceError) as raised:
        open_engine(Bundle.read(folder), "image", device="cuda")
    first, second = str(raised.value).split("; and its graph: ")
    assert "stage 'image' must have an engine that works on device cuda; " in first
    assert "this machine has 0; " in first
    assert first.endswith(f"saymask build {folder} --target tensorrt --fp16 --phrases 4")
    assert "this onnxruntime has no CUDA; pip install 'saymask[gpu]'" in second


def test_an_explicit_device_without_engines_is_onnxruntimes(bundle, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="the device must work here; cuda:0 does not: this onnx"):
        open_engine(bundle, "image", device="cuda")


def test_the_cpu_takes_no_engine(engine_bundle, caplog):
    with caplog.at_level(logging.INFO, "saymask"):
        assert open_engine(Bundle.read(engine_bundle()), "image", device="cpu").device == "cpu"
    assert not caplog.records


def test_a_damaged_cache_of_engines_leaves_the_graph_to_onnxruntime(engine_bundle, caplog):
    folder = engine_bundle()
    next(folder.glob("engines/*/image.json")).write_text("{")
    with caplog.at_level(logging.INFO, "saymask"):
        assert open_engine(Bundle.read(folder), "image", threads=1).device
    assert "image.json must be the report of an engine" in caplog.records[0].getMessage()
