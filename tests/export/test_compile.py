"""Engines are put into a bundle whole or not at all, and what goes wrong names the stage."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from saymask.export import compile as compiling
from saymask.export.compile import CompileRecipe, compile_bundle, needed_bytes, shape_range
from saymask.runtime import machine
from saymask.runtime.bundle import Bundle
from saymask.runtime.engine_cache import read_reports
from saymask.runtime.errors import (
    DeviceError,
    EngineError,
    MissingExtraError,
    OutputError,
    UnknownNameError,
    UsageError,
)
from saymask.runtime.spec import TensorSpec

from ..runtime import chat_bundle

MOST = {"phrases": 8, "tokens": 48, "memories": 7, "tiles": 5, "masks": 32, "points": 102}


@pytest.fixture
def bundle(tiny_bundle, tmp_path) -> Bundle:
    return Bundle.read(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


@pytest.fixture
def rtx(monkeypatch) -> ModuleType:
    """A TensorRT-RTX that knows three kinds of GPU, as far as that is asked of it."""
    library = ModuleType("tensorrt_rtx")
    library.__version__ = "1.7"
    library.ComputeCapability = type("Kinds", (), {"SM75": 75, "SM89": 89, "SM120": 120, "NONE": 0})
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)
    return library


def _compile(bundle: Bundle, target: str = "rtx", **wishes) -> None:
    compile_bundle(bundle, CompileRecipe(target=target, **wishes), lambda _: None, lambda: None)


def test_every_stage_becomes_an_engine(bundle):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    said, steps = [], []
    recipe = CompileRecipe(target="rtx", device_sm=89, phrases=2)
    reports = compile_bundle(bundle, recipe, said.append, lambda: steps.append(1))
    assert said == [f"compile {stage} in fp32" for stage in ("image", "prompt", "mask")]
    assert steps
    (folder,) = (bundle.folder / "engines").iterdir()
    assert folder.name == reports[0].key.folder
    assert {path.suffix for path in folder.iterdir()} == {".engine", ".json"}
    stored = {report.stage: report for _, report in read_reports(bundle.folder)}
    assert stored == {report.stage: report for report in reports}
    assert stored["prompt"].shapes[1].most == (2, 16)
    assert Bundle.read(bundle.folder) == bundle


def test_a_language_model_is_passed_over(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    bundle = Bundle.read(chat_bundle.write(tmp_path / "chat"))
    stages = tuple(
        stage if stage.is_graph else replace(stage, precision="q4_k_m")
        for stage in bundle.manifest.stages
    )
    bundle = replace(bundle, manifest=replace(bundle.manifest, stages=stages))
    recipe = CompileRecipe(target="rtx", device_sm=89, phrases=2)
    reports = compile_bundle(bundle, recipe, lambda _: None, lambda: None)
    assert [report.stage for report in reports] == ["image", "vision", "mask"]
    assert [shape.most for shape in reports[2].shapes] == [(1, 3, 12, 16), (8, 102, 2), (8, 102)]


def test_ranges_of_axes_that_vary():
    ids = TensorSpec(name="token_ids", dtype="int64", shape=("phrases", "tokens"))
    found = shape_range(ids, MOST)
    assert (found.least, found.usual, found.most) == ((1, 2), (1, 25), (8, 48))
    ages = shape_range(TensorSpec(name="ages", dtype="int64", shape=("phrases", "memories")), MOST)
    assert (ages.least, ages.usual, ages.most) == ((1, 1), (1, 7), (8, 7))
    points = TensorSpec(name="points_xy", dtype="float32", shape=("masks", "points", 2))
    found = shape_range(points, MOST)
    assert (found.least, found.usual, found.most) == ((1, 2, 2), (1, 52, 2), (32, 102, 2))
    tiles = shape_range(TensorSpec(name="pixels", dtype="float32", shape=("tiles", 3)), MOST)
    assert (tiles.least, tiles.usual, tiles.most) == ((1, 3), (5, 3), (5, 3))
    image = shape_range(TensorSpec(name="image", dtype="float32", shape=(1, 3, 8, 8)), MOST)
    assert image.least == image.usual == image.most == (1, 3, 8, 8)
    with pytest.raises(UsageError, match="axes that vary must be .*; points has count"):
        shape_range(TensorSpec(name="points", dtype="float32", shape=("count", 2)), MOST)


@pytest.mark.usefixtures("rtx")
def test_wishes_that_make_no_sense(bundle):
    with pytest.raises(UnknownNameError, match="target must be one of rtx, tensorrt; got 'cpu'"):
        _compile(bundle, "cpu")
    with pytest.raises(UnknownNameError, match="precision must be one of fp16, fp32; got 'int3'"):
        _compile(bundle, precision="int3")
    with pytest.raises(UsageError, match="--device-sm must be one of 75, 89, 120 .* 1.7; got 87"):
        _compile(bundle, device_sm=87)


def _all_in(bundle: Bundle, precision: str) -> Bundle:
    stages = tuple(replace(stage, precision=precision) for stage in bundle.manifest.stages)
    return replace(bundle, manifest=replace(bundle.manifest, stages=stages))


def test_graphs_for_onnx_runtime_are_refused(bundle):
    with pytest.raises(UsageError, match="stage 'image' .* is int8-static, .* with --target rtx"):
        _compile(_all_in(bundle, "int8-static"))


@pytest.mark.usefixtures("rtx")
def test_fp8_is_compiled_for_what_knows_it(bundle, monkeypatch):
    keys = []
    monkeypatch.setattr(compiling, "_compile_stage", lambda *job: keys.append(job[3].sm))
    for precision, expected in (("int8", (89, 120)), ("fp8", (89, 120))):
        _compile(_all_in(bundle, precision))
        assert set(keys) == {expected}
    monkeypatch.setattr(compiling, "LEAST_FP8_SM", 120)
    _compile(_all_in(bundle, "fp8"))
    assert keys[-1] == (120,)
    with pytest.raises(DeviceError, match="FP8 takes .* 8.9 or newer .*; got 7.5"):
        _compile(_all_in(bundle, "fp8"), device_sm=75)


def test_fp8_is_refused_on_an_orin(bundle, monkeypatch):
    library = ModuleType("tensorrt")
    library.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    orin = machine.CudaDevice(name="Orin", capability="8.7", memory_bytes=1 << 33)
    monkeypatch.setattr(machine, "cuda_devices", lambda: (orin,))
    with pytest.raises(DeviceError, match=r"got 8.7 \(Jetson Orin\); take --int8 or --fp16"):
        _compile(_all_in(bundle, "fp8"), "tensorrt")


def test_too_little_memory_is_one_error_before_any_work(bundle, monkeypatch):
    memory = {"total": 1 << 30, "available": 90 << 20, "swap": 9 << 20}
    monkeypatch.setattr(machine, "memory_bytes", lambda: memory)
    with pytest.raises(DeviceError, match=r"stage 'image' takes about 5\d\d MiB .*; 99 MiB are"):
        _compile(bundle)


@pytest.mark.parametrize(("precision", "measured_mib"), [("fp32", 10021), ("fp16", 6610)])
def test_the_largest_stage_needs_no_more_than_is_said(precision, measured_mib):
    """BEiT-3-L's graph has 2571 MiB; what compiling it took stands in docs/full-sizes.md."""
    said_mib = needed_bytes(2571 << 20, precision) >> 20
    assert measured_mib < said_mib < 1.3 * measured_mib


def test_missing_libraries(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r"saymask\[rtx\]"):
        _compile(bundle)


@pytest.mark.parametrize(("gpus", "wish"), [((), None), (("8.7",), 89)])
def test_tensorrt_compiles_for_the_gpu_that_is_here(bundle, monkeypatch, gpus, wish):
    library = ModuleType("tensorrt")
    library.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    devices = tuple(
        machine.CudaDevice(name="Orin", capability=gpu, memory_bytes=1 << 33) for gpu in gpus
    )
    monkeypatch.setattr(machine, "cuda_devices", lambda: devices)
    with pytest.raises(DeviceError, match="tensorrt compiles on the GPU .* --target rtx"):
        _compile(bundle, "tensorrt", device_sm=wish)


@pytest.mark.usefixtures("rtx")
def test_a_failure_leaves_what_was_there(bundle, monkeypatch):
    def fail(*_):
        raise EngineError("refused")

    monkeypatch.setattr(compiling, "_compile_stage", fail)
    (kept,) = [bundle.folder / "engines" / "tensorrt-1" / "image.engine"]
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"engine")
    with pytest.raises(EngineError, match="refused"):
        _compile(bundle)
    assert list((bundle.folder / "engines").rglob("*")) == [kept.parent, kept]


@pytest.mark.usefixtures("rtx")
def test_a_bundle_that_cannot_be_written(bundle):
    (bundle.folder / "engines").write_text("a file")
    with pytest.raises(OutputError, match="engines must be written to .*engines, which failed"):
        _compile(bundle)


@pytest.mark.parametrize(
    ("end", "argument", "message"),
    [
        (signal.raise_signal, signal.SIGKILL, "was killed, as a system out of memory does"),
        (signal.raise_signal, signal.SIGSEGV, "crashed with SIGSEGV"),
        (os._exit, 3, "ended with code 3"),
    ],
)
def test_a_compiler_that_dies(bundle, end, argument, message):
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=end, args=(argument,))
    child.start()
    sender.close()
    with pytest.raises(EngineError, match=f"stage 'image' must end with an engine; it {message}"):
        compiling._received(receiver, child, bundle.stage("image"), lambda: None)


def test_an_error_in_the_child_is_raised_here(bundle):
    """FP16 needs names of nodes, which this bundle's graphs lack."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    with pytest.raises(UsageError, match="every node must have a name"):
        _compile(bundle, precision="fp16", device_sm=89)
    assert not list((bundle.folder / "engines").iterdir())


def test_a_graph_that_crashes_the_child(bundle, caplog):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    path = Path(bundle.folder / bundle.stage("image").file)
    path.write_bytes(b"\x08\x09")
    with caplog.at_level(logging.INFO), pytest.raises(EngineError, match="stage 'image'"):
        _compile(bundle, device_sm=89)
    assert not list((bundle.folder / "engines").iterdir())
