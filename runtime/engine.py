"""An engine: one stage of a system, named arrays in and named arrays out."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from . import machine
from .bundle import Bundle
from .engine_cache import TARGETS, read_reports
from .errors import BundleError, DeviceError, EngineError, MissingExtraError, UsageError
from .spec import StageSpec
from .tables import module_from_table

__all__ = [
    "BACKENDS",
    "CPU_BACKENDS",
    "Engine",
    "check_inputs",
    "open_engine",
    "open_engines",
    "open_graph",
]

BACKENDS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}
"""Names of backends and their modules in `backends/`, imported when chosen."""
CPU_BACKENDS = {
    "cpu": "onnxruntime",
    "openvino": "openvino",
    **dict.fromkeys(TARGETS, "onnxruntime"),
}
"""What graphs are written for, see `Manifest.target`, and the backend that runs them on a CPU."""

_LOG = logging.getLogger("saymask")


class Engine(Protocol):
    """One compiled stage; it keeps nothing from one run to the next."""

    @property
    def stage(self) -> StageSpec:
        """What it computes."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda:N"."""
        ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the stage's outputs, by name, from its inputs, by name.

        Outputs may lie on the device, see `cuda.DeviceArray`; another engine takes them as they
        are, and `numpy.asarray` copies them.

        Raises:
            EngineError: The inputs do not fit the stage, or the computation failed.
        """
        ...

    def close(self) -> None:
        """Give its memory back; it cannot run any more."""
        ...


def open_engine(
    bundle: Bundle,
    stage: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    backend: str | None = None,
) -> Engine:
    """Open one stage of a bundle.

    Args:
        bundle: Where the stage's graph is.
        stage: Name of the stage.
        device: "auto", "cpu", "cuda" or "cuda:N"; only "auto" may fall back to the CPU.
        threads: Threads of the CPU; None leaves one for each physical core.
        backend: Key of `BACKENDS`; None takes the engine that `saymask build` compiled for this
            machine, or where there is none what `CPU_BACKENDS` says.

    Raises:
        BundleError: The bundle has no such stage, or is for an unknown target.
        DeviceError: `device` cannot run it.
        EngineError: The backend refuses the graph.
        MissingExtraError: The backend's library is not installed.
        UnknownNameError: There is no such backend.
        UsageError: `device` or `threads` make no sense.
    """
    name = backend or _cpu_backend(bundle)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"device must be auto, cpu, cuda or cuda:N; got {device!r}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1; got {threads}")
    spec = bundle.stage(stage)
    graph = bundle.folder / spec.file
    if backend or device == "cpu":
        return open_graph(graph, spec, backend=name, device=device, threads=threads)
    compiled, faults = _open_compiled(bundle, spec, device)
    if compiled:
        return compiled
    if device == "auto":
        _tell(stage, faults)
    try:
        engine = open_graph(graph, spec, backend=name, device=device, threads=threads)
    except DeviceError as error:
        if not faults:
            raise
        raise DeviceError(
            f"stage {stage!r} must have an engine that works on device {device}; "
            f"{'; '.join(faults)}; and its graph: {error}"
        ) from error
    if device != "auto":
        _tell(stage, faults)
    return engine


def open_graph(
    graph: Path, stage: StageSpec, *, backend: str, device: str, threads: int | None
) -> Engine:
    """Open a graph as an engine, whichever bundle it is for.

    Args:
        graph: An ONNX file; external data lies beside it.
        stage: What it computes.
        backend: Key of `BACKENDS`.
        device: See `open_engine`.
        threads: Likewise.

    Raises:
        SaymaskError: See `open_engine`.
    """
    module = module_from_table("backend", backend, BACKENDS, f"{__package__}.backends")
    return module.open_graph(graph, stage, device=device, threads=threads)


def open_engines(
    bundle: Bundle, stages: tuple[str, ...], *, device: str = "auto", threads: int | None = None
) -> dict[str, Engine]:
    """Open several stages on one device: what "auto" means is settled by the first of them."""
    engines: dict[str, Engine] = {}
    for stage in stages:
        engines[stage] = open_engine(bundle, stage, device=device, threads=threads)
        device = engines[stage].device
    return engines


def _cpu_backend(bundle: Bundle) -> str:
    target = bundle.manifest.target
    if target not in CPU_BACKENDS:
        raise BundleError(
            f"{bundle.folder} must be for one of {', '.join(sorted(CPU_BACKENDS))}; got "
            f"{target!r}; upgrade saymask or export the bundle again"
        )
    return CPU_BACKENDS[target]


def _open_compiled(
    bundle: Bundle, stage: StageSpec, device: str
) -> tuple[Engine | None, list[str]]:
    """Open an engine that was compiled for this machine, or say of each why it doesn't work."""
    try:
        reports = [report for _, report in read_reports(bundle.folder)]
    except EngineError as error:
        return None, [str(error)]
    faults = []
    for library in sorted({r.key.library for r in reports if r.stage == stage.name}):
        try:
            return open_engine(bundle, stage.name, device=device, backend=library), []
        except (DeviceError, EngineError, MissingExtraError) as error:
            faults.append(str(error))
    return None, faults


def _tell(stage: str, faults: Sequence[str]) -> None:
    level = logging.WARNING if machine.cuda_devices() else logging.INFO
    for fault in faults:
        _LOG.log(level, "stage %s takes its graph: %s", stage, fault)


def check_inputs(stage: StageSpec, inputs: Mapping[str, np.ndarray]) -> None:
    """Compare the inputs of a run with what the stage takes.

    Raises:
        EngineError: A name is missing or unknown, or a dtype or a fixed extent is another.
    """
    names = {tensor.name for tensor in stage.inputs}
    if names != set(inputs):
        raise EngineError(
            f"stage {stage.name!r} takes {', '.join(sorted(names))}; got {', '.join(inputs)}"
        )
    for tensor in stage.inputs:
        array = inputs[tensor.name]
        has_shape = array.ndim == len(tensor.shape) and all(
            isinstance(axis, str) or axis == extent
            for axis, extent in zip(tensor.shape, array.shape, strict=True)
        )
        if not has_shape or array.dtype.name != tensor.dtype:
            shape = ", ".join(map(str, tensor.shape))
            raise EngineError(
                f"stage {stage.name!r} takes {tensor.name} as {tensor.dtype} ({shape}); "
                f"got {array.dtype} {array.shape}"
            )
