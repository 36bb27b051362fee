"""A graph becomes an engine of the asked precision, without a GPU in the machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from saymask.calibration.plan import plan_nodes
from saymask.calibration.quantize import plannable
from saymask.calibration.ranges import Range
from saymask.calibration.session import tensors_from_values
from saymask.calibration.storage import save
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors
from saymask.export.compile import shape_range
from saymask.export.engine_build import EngineJob, build_engine
from saymask.export.graph import Stage, trace
from saymask.export.models.hiera import WindowAttention
from saymask.runtime.bundle import Bundle
from saymask.runtime.engine_cache import device_key, graph_sha256
from saymask.runtime.errors import EngineError
from saymask.runtime.spec import TensorSpec

rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")


def _job(bundle: Bundle, folder: Path, name: str, precision: str, *, phrases: int = 4) -> EngineJob:
    stage = bundle.stage(name)
    graph = bundle.folder / stage.file
    return replace(
        _job_of(graph, stage.inputs, folder, phrases=phrases), stage=name, precision=precision
    )


def _job_of(
    graph: Path, inputs: Iterable[TensorSpec], folder: Path, *, phrases: int = 1
) -> EngineJob:
    most = {"phrases": phrases, "tokens": 48}
    return EngineJob(
        stage="image",
        graph=graph,
        shapes=tuple(shape_range(tensor, most) for tensor in inputs),
        precision="fp16",
        phrases=phrases,
        key=device_key("tensorrt_rtx", rtx.__version__, (89,)),
        folder=folder,
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_built_layers_have_the_asked_precision(fp32_bundle, tmp_path, precision):
    steps = []
    report = build_engine(_job(fp32_bundle, tmp_path, "mask", precision), lambda: steps.append(1))
    assert steps
    weighted = {(row.kind, row.precision) for row in report.built if row.kind in ("gemm", "deconv")}
    assert {found for _, found in weighted} == {precision}
    asked = {row.precision for row in report.asked if row.kind == "Gemm"}
    assert asked == {precision}
    assert [share.precision for share in report.shares] == [precision]
    assert report.shares[0].nodes == sum(
        row.count for row in report.asked if row.kind in ("ConvTranspose", "Gemm", "MatMul")
    )
    assert report.shares[0].share == 1
    engine = tmp_path / "mask.engine"
    assert engine.stat().st_size == report.engine_bytes
    assert graph_sha256(engine) == report.engine_sha256
    assert {path.name for path in tmp_path.iterdir()} == {"mask.engine", "mask.json"}


def test_queries_keys_and_values_of_windows_are_multiplied_in_int8(tmp_path):
    """As one product whose columns are parted, they would be in FP16."""
    stage = Stage(
        name="image",
        module=WindowAttention(32, 32, heads=2, pools_queries=False),
        examples={"windows": torch.randn(4, 4, 4, 32)},
        outputs=("mixed",),
        varying={},
    )
    plain = plannable(trace(stage))
    plan = plan_nodes(plain)
    names = symmetric_tensors(plain, plan, element="int8")
    ranges = dict.fromkeys(names, Range(low=-3, high=3))
    graph = lower_symmetric(plain, plan, ranges, element="int8")
    file, *_ = save(graph, tmp_path / "image.onnx")
    job = _job_of(file, tensors_from_values(graph.graph.input), tmp_path)
    shares = {share.precision: share.nodes for share in build_engine(job, lambda: None).shares}
    assert shares == {"int8": 4, "fp16": 2}


def test_one_phrase_alone(fp32_bundle, tmp_path):
    """The graph's axis varies, though the engine takes one extent of it."""
    report = build_engine(_job(fp32_bundle, tmp_path, "mask", "fp32", phrases=1), lambda: None)
    shapes = {shape.input: shape for shape in report.shapes}
    limits = shapes["prompt_embedding"]
    assert limits.least == limits.most
    assert limits.most[0] == 1
    assert (tmp_path / "mask.engine").stat().st_size == report.engine_bytes


def test_a_graph_that_the_library_refuses(tiny_bundle, tmp_path):
    job = _job(Bundle.read(tiny_bundle), tmp_path, "image", "fp32")
    model = onnx.load(job.graph)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "broken.onnx")
    broken = replace(job, graph=tmp_path / "broken.onnx")
    said = "tensorrt_rtx .* refuses stage 'image' in fp32: .*NoSuchOperator.*; export the bundle"
    with pytest.raises(EngineError, match=said):
        build_engine(broken, lambda: None)
