"""One stage's graph as a strongly typed TensorRT engine, compiled in this process."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from ..calibration.macs import multiply_adds_of_shapes
from ..calibration.storage import save
from ..runtime import machine
from ..runtime.engine_cache import (
    DeviceKey,
    EngineReport,
    ShapeRange,
    graph_sha256,
    write_report,
)
from ..runtime.errors import EngineError
from .engine_report import asked_layers, built_layers, built_shares
from .halve import halve

__all__ = ["EngineJob", "build_engine"]

_ERRORS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """One engine to compile."""

    stage: str
    """Name of the stage."""
    graph: Path
    """Its graph in FP32, or with small numbers as TensorRT takes them."""
    shapes: tuple[ShapeRange, ...]
    """One for each input."""
    precision: str
    """"fp32" or "fp16": what the graph's floats become."""
    phrases: int
    """Most phrases of one run, for the report; `shapes` decide."""
    key: DeviceKey
    """What it is compiled for; `key.library` compiles it."""
    folder: Path
    """Where STAGE.engine and STAGE.json are written."""


def build_engine(job: EngineJob, step: Callable[[], None]) -> EngineReport:
    """Compile an engine and write it with its report.

    Args:
        job: What to compile.
        step: Called now and then while the compiler works.

    Raises:
        EngineError: The library refuses the graph or the job.
    """
    start = time.monotonic()
    trt = importlib.import_module(job.key.library)
    log = _log(trt)
    model = onnx.load(job.graph)
    with TemporaryDirectory(dir=job.folder) as scratch:
        graph = job.graph
        if job.precision == "fp16":
            model = halve(model)
            graph = save(model, Path(scratch) / job.graph.name)[0]
        asked = asked_layers(model)
        del model
        plan = _compile(trt, log, graph, job, step)
    described = _inspect(trt, log, plan)
    path = job.folder / f"{job.stage}.engine"
    path.write_bytes(memoryview(plan))
    report = EngineReport(
        stage=job.stage,
        key=job.key,
        precision=job.precision,
        phrases=job.phrases,
        graph_sha256=graph_sha256(job.graph),
        engine_sha256=graph_sha256(path),
        engine_bytes=path.stat().st_size,
        shapes=job.shapes,
        asked=asked,
        built=built_layers(described),
        shares=built_shares(described, _work(job)),
        seconds=round(time.monotonic() - start, 3),
        peak_memory_bytes=machine.peak_memory_bytes(),
    )
    write_report(job.folder, report)
    return report


def _compile(trt: Any, log: Any, graph: Path, job: EngineJob, step: Callable[[], None]) -> Any:
    builder = trt.Builder(log)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
        raise EngineError(_refusal(job, found))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt, step)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # TensorRT-RTX captures a run in a CUDA graph only when it need not allocate.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if job.key.library == "tensorrt_rtx":
        config.num_compute_capabilities = len(job.key.sm)
        for index, sm in enumerate(job.key.sm):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index)
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    varying = {tensor.name for tensor in inputs if -1 in tuple(tensor.shape)}
    for shape in job.shapes:
        # Where the least is the most, as with one phrase, the graph's axis still has no number.
        if shape.input in varying:
            profile.set_shape(shape.input, shape.least, shape.usual, shape.most)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(_refusal(job, log.errors))
    return plan


def _work(job: EngineJob) -> dict[str, int]:
    """Return the multiply-adds of the graph's products and convolutions, in the usual shapes."""
    graph = onnx.load(job.graph, load_external_data=False)
    if not all(node.name for node in graph.graph.node):
        return {}  # Foreign graphs may have nodes that no layer can be told to come from.
    return multiply_adds_of_shapes(graph, {shape.input: shape.usual for shape in job.shapes})


def _inspect(trt: Any, log: Any, plan: Any) -> str:
    """Describe the engine's layers; without a GPU, which loading takes, from the compiler's log."""
    if machine.cuda_devices():
        engine = trt.Runtime(log).deserialize_cuda_engine(plan)
        if engine is not None:
            inspector = engine.create_engine_inspector()
            return inspector.get_engine_information(trt.LayerInformationFormat.ONELINE)
    return "\n".join(log.layers)


def _refusal(job: EngineJob, errors: list[str]) -> str:
    said = "; ".join(errors[:_ERRORS_SHOWN]) or "it gives no reason"
    return (
        f"{job.key.library} {job.key.version} refuses stage {job.stage!r} in {job.precision}: "
        f"{said}; export the bundle again or upgrade the library"
    )


def _log(trt: Any) -> Any:
    """Make a logger that keeps errors and the lines that describe the finished engine."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif ", LayerType: " in message:
                self.layers.append(message)

    return Log()


def _monitor(trt: Any, step: Callable[[], None]) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, *_: Any) -> None:
            step()

        def phase_finish(self, *_: Any) -> None:
            step()

        def step_complete(self, *_: Any) -> bool:
            step()
            return True

    return Monitor()
