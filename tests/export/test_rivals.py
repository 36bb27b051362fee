"""Rivals segment as the bundle does, from the same checkpoint."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from saymask.calibration import ceiling as ceiling_module
from saymask.export import rivals
from saymask.runtime.bench.closed_loop import Workload
from saymask.runtime.bench.rivals import RivalRequest
from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import CheckpointError, UsageError
from saymask.runtime.prompt import prompts_from
from saymask.runtime.systems import System, open_system

HAS_NNCF = bool(find_spec("openvino") and find_spec("nncf"))


@pytest.fixture
def wanted(fp32_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path) -> RivalRequest:
    golden = fp32_bundle.golden()
    workload = Workload(
        frames=(golden["frame"],),
        phrases=tuple(golden["phrases"].tolist()),
        device="cpu",
        threads=1,
        iterations=1,
        warm_up=0,
    )
    return RivalRequest(checkpoint=str(tiny_checkpoint), work=tmp_path, workload=workload)


def _masks(system: System, wanted: RivalRequest) -> np.ndarray:
    prompts = prompts_from(list(wanted.workload.phrases))
    return system.segment(wanted.workload.frames[0], prompts).boolean


@pytest.fixture
def own(fp32_bundle, wanted) -> np.ndarray:
    """The bundle's own masks."""
    return _masks(open_system(fp32_bundle, device="cpu", threads=1), wanted)


def test_eager_is_what_was_exported(fp32_bundle, wanted, own):
    found = _masks(rivals.open_eager(fp32_bundle, wanted), wanted)
    assert found.shape == own.shape
    assert np.mean(found != own) < 0.001


@pytest.mark.slow
@pytest.mark.skipif(not HAS_NNCF, reason="openvino or nncf is not installed")
def test_openvino_is_quantized_once(fp32_bundle, wanted, own, monkeypatch):
    found = _masks(rivals.open_openvino(fp32_bundle, wanted), wanted)
    assert found.shape == own.shape
    (kept,) = wanted.work.glob("*/nncf-*")
    assert {path.name for path in kept.glob("*.xml")} == {"image.xml", "prompt.xml", "mask.xml"}
    assert b"i8" in (kept / "prompt.xml").read_bytes()
    monkeypatch.setattr(rivals, "_quantize", None)
    opened, open_graph = [], rivals.openvino.open_graph

    def noting(graph, stage, **more):
        opened.append(stage.precision)
        return open_graph(graph, stage, **more)

    monkeypatch.setattr(rivals.openvino, "open_graph", noting)
    again = _masks(rivals.open_openvino(fp32_bundle, wanted), wanted)
    np.testing.assert_array_equal(again, found)
    assert opened == ["nncf"] * 3  # Else users are told that their bundle's sums may overflow.


def test_the_ceiling_counts_every_stage(fp32_bundle, wanted, monkeypatch):
    monkeypatch.setattr(ceiling_module, "_ROUNDS", 2)
    found = rivals.ceiling(fp32_bundle, wanted)
    assert [each.stage for each in found.stages] == ["image", "prompt", "mask"]
    assert all(each.operations > 100_000 for each in found.stages)


def test_graphs_that_hold_int8_are_traced_anew(fp32_bundle, wanted, monkeypatch):
    stages = tuple(
        replace(stage, precision="int8-static" if stage.name == "prompt" else "fp32")
        for stage in fp32_bundle.manifest.stages
    )
    bundle = replace(fp32_bundle, manifest=replace(fp32_bundle.manifest, stages=stages))
    traced = []

    def trace(stage):
        import onnx

        traced.append(stage.name)
        return onnx.load(fp32_bundle.folder / f"stages/{stage.name}.onnx")

    monkeypatch.setattr(rivals, "trace", trace)
    for _ in range(2):
        found = rivals._graphs(bundle, wanted)
    assert traced == ["prompt"]
    assert found["mask"].parent == fp32_bundle.folder / "stages"
    assert found["prompt"].is_relative_to(wanted.work)


def test_the_checkpoint_must_be_the_bundles(fp32_bundle, wanted):
    with pytest.raises(UsageError, match="--checkpoint must name the bundle's own, .*'tiny'"):
        rivals.open_eager(fp32_bundle, replace(wanted, checkpoint=None))
    with pytest.raises(CheckpointError, match="must be the bundle's, 'tiny' with SHA-256"):
        rivals.open_eager(fp32_bundle, replace(wanted, checkpoint="evf-sam-mini"))
