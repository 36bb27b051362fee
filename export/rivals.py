"""What a bundle is compared with: its checkpoint in PyTorch, and in OpenVINO as NNCF quantizes it.

All of them get the bundle's own pre- and postprocessing, so only the engines differ. The modules
are those that are exported, without the work that the official code does for nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from ..calibration.ceiling import measure_ceiling, work_of
from ..calibration.passes import replace_resizes
from ..calibration.recording import Recorder
from ..calibration.storage import save
from ..runtime.backends import openvino
from ..runtime.bench.rivals import Ceiling, RivalRequest
from ..runtime.bundle import Bundle
from ..runtime.engine import Engine
from ..runtime.errors import CheckpointError, UsageError, require
from ..runtime.prompt import prompts_from
from ..runtime.replace import replacing
from ..runtime.systems import System, open_system
from .checkpoint import Checkpoint, open_checkpoint
from .graph import Stage, trace
from .systems import system_module
from .torch_engine import TorchEngine, compiled

__all__ = ["ceiling", "open_compiled", "open_eager", "open_openvino"]


def open_eager(bundle: Bundle, request: RivalRequest) -> System:
    """Open the checkpoint in PyTorch, FP32, as its authors run it.

    PyTorch's threads are those of the whole process from then on.

    Raises:
        CheckpointError: It is not the bundle's.
        UsageError: None was named.
    """
    return _open_torch(bundle, request, lambda stage: stage)


def open_compiled(bundle: Bundle, request: RivalRequest) -> System:
    """Open what `open_eager` opens, compiled by `torch.compile`.

    Raises:
        EngineError: There is no C++ compiler.
        SaymaskError: See `open_eager`.
    """
    return _open_torch(bundle, request, compiled)


def open_openvino(bundle: Bundle, request: RivalRequest) -> System:
    """Open the checkpoint's FP32 graphs in OpenVINO, quantized by NNCF on the request's frames.

    What NNCF leaves alone is computed in FP32. The graphs are kept in the work folder.

    Raises:
        MissingExtraError: openvino or nncf is not installed.
        SaymaskError: See `open_eager`.
    """
    folder = _kept(bundle, request) / f"nncf-{_digest(request)}"
    if not folder.is_dir():
        graphs, feeds = _graphs(bundle, request), _feeds(bundle, request)
        with replacing(folder) as partial:
            for name, graph in graphs.items():
                _quantize(graph, feeds[name], partial / f"{name}.xml")

    def engine_of(name: str) -> Engine:
        return openvino.open_graph(
            folder / f"{name}.xml",
            replace(bundle.stage(name), precision="nncf"),  # Its sums are not the bundle's.
            device="cpu",
            threads=request.workload.threads,
        )

    return _with_engines(bundle, request, engine_of)


def ceiling(bundle: Bundle, request: RivalRequest) -> Ceiling:
    """Measure the ceilings of the checkpoint's stages on the request's first frame.

    Raises:
        SaymaskError: See `open_eager`.
    """
    graphs, feeds = _graphs(bundle, request), _feeds(bundle, request)
    works = {name: work_of(onnx.load(graph), feeds[name][0]) for name, graph in graphs.items()}
    return measure_ceiling(works, threads=request.workload.threads)


def _open_torch(bundle: Bundle, request: RivalRequest, change: Callable[[Stage], Stage]) -> System:
    if request.workload.threads:
        torch.set_num_threads(request.workload.threads)
    stages = {stage.name: change(stage) for stage in _stages(bundle, request)}
    return _with_engines(
        bundle, request, lambda name: TorchEngine(stages[name], bundle.stage(name))
    )


def _with_engines(
    bundle: Bundle, request: RivalRequest, engine_of: Callable[[str], Engine]
) -> System:
    """Open the bundle's system and put other engines in place of its own."""

    def replaced(own: Engine) -> Engine:
        own.close()
        return engine_of(own.stage.name)

    return open_system(bundle, device="cpu", threads=request.workload.threads, wrap=replaced)


def _checkpoint(bundle: Bundle, request: RivalRequest) -> Checkpoint:
    source = bundle.manifest.source
    miniature = system_module(bundle.manifest.system).MINIATURE
    if request.checkpoint is None and source.name != miniature:
        raise UsageError(
            f"--checkpoint must name the bundle's own, which is {source.name!r}; got none; its "
            "folder, file or hub id is what the bundle was exported from"
        )
    checkpoint = open_checkpoint(request.checkpoint or miniature)
    sha256 = checkpoint.sha256()
    if sha256 != source.sha256:
        raise CheckpointError(
            f"the checkpoint must be the bundle's, {source.name!r} with SHA-256 {source.sha256}; "
            f"{checkpoint.folder} has {sha256}; name that one or export the bundle again"
        )
    return checkpoint


def _stages(bundle: Bundle, request: RivalRequest) -> tuple[Stage, ...]:
    module = system_module(bundle.manifest.system)
    return module.stages(module.load(_checkpoint(bundle, request)))


def _graphs(bundle: Bundle, request: RivalRequest) -> dict[str, Path]:
    """Return each stage's FP32 graph: the bundle's own, or traced where that holds INT8."""
    graphs = {
        stage.name: bundle.folder / stage.file
        if stage.precision == "fp32"
        else _kept(bundle, request) / stage.name / "graph.onnx"
        for stage in bundle.manifest.stages
        if stage.is_graph
    }
    if not all(path.is_file() for path in graphs.values()):
        for stage in _stages(bundle, request):
            path = graphs[stage.name]
            if not path.is_file():
                with replacing(path.parent) as partial:
                    save(replace_resizes(trace(stage)), partial / path.name)
    return graphs


def _kept(bundle: Bundle, request: RivalRequest) -> Path:
    return request.work / bundle.manifest.source.sha256[:12]


def _feeds(bundle: Bundle, request: RivalRequest) -> dict[str, list[Mapping[str, np.ndarray]]]:
    """Return what each stage reads on the request's frames, in FP32."""
    recorder, workload = Recorder(), request.workload
    with closing(open_eager(bundle, request)) as system:
        watched = system.with_engines(recorder.watch)
        for frame in workload.frames:
            watched.segment(frame, prompts_from(workload.phrases))
    return {name: recorder.feeds(name) for name in recorder.runs}


def _digest(request: RivalRequest) -> str:
    """Name the frames and phrases of a request."""
    digest = hashlib.sha256("\n".join(request.workload.phrases).encode())
    for frame in request.workload.frames:
        digest.update(frame.tobytes())
    return digest.hexdigest()[:12]


def _quantize(graph: Path, feeds: list[Mapping[str, np.ndarray]], path: Path) -> None:
    """Quantize a graph with NNCF's defaults for its kind of network."""
    library = openvino.library()
    nncf = require("nncf", extra="rivals")
    model = openvino.core().read_model(graph)
    is_transformer = any(node.get_type_name() == "Softmax" for node in model.get_ops())
    with contextlib.redirect_stdout(io.StringIO()):  # Its progress bars.
        quantized = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
            subset_size=len(feeds),
        )
    library.save_model(quantized, path, compress_to_fp16=False)
