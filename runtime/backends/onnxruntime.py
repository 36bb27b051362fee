"""ONNX Runtime runs a stage, on the CPU or on a CUDA device."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import check_inputs
from ..errors import DeviceError, EngineError, require
from ..machine import allowed_cores
from ..spec import WEIGHT_BITS, StageSpec
from ..sums import warn_of_sums

__all__ = ["OnnxEngine", "open_graph"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_LOG = logging.getLogger("saymask")


class OnnxEngine:
    """A session of ONNX Runtime."""

    def __init__(self, session: Any, stage: StageSpec, device: str) -> None:
        """Wrap an open session that computes `stage` on `device`."""
        self.stage = stage
        self.device = device
        self._session = session
        self._outputs = [tensor.name for tensor in stage.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the stage's outputs, by name, from its inputs, by name.

        Raises:
            EngineError: The inputs do not fit the stage, or the computation failed.
        """
        check_inputs(self.stage, inputs)
        if self._session is None:
            raise EngineError(f"stage {self.stage.name!r} was closed; open it again")
        try:
            # What an engine of another backend left on its device comes to the host here.
            arrays = {name: np.asarray(array) for name, array in inputs.items()}
            results = self._session.run(self._outputs, arrays)
        except Exception as error:
            raise EngineError(
                f"stage {self.stage.name!r} failed in ONNX Runtime: {error}"
            ) from error
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:
        """Give the session's memory back; it cannot run any more."""
        self._session = None


def open_graph(graph: Path, stage: StageSpec, *, device: str, threads: int | None) -> OnnxEngine:
    """Open an ONNX graph as an engine.

    Args:
        graph: The ONNX file; external data lies beside it.
        stage: What it computes.
        device: "auto", "cpu", "cuda" or "cuda:N"; "auto" takes CUDA where it works.
        threads: Threads of the CPU; None leaves one for each physical core.

    Raises:
        DeviceError: CUDA was asked for and does not work.
        EngineError: ONNX Runtime refuses the graph, or it has other inputs or outputs.
        MissingExtraError: onnxruntime is not installed.
    """
    ort = require("onnxruntime", extra="cpu")
    options = _options(ort, threads)
    index = int(device.partition(":")[2] or 0)
    session = None
    if device != "cpu":
        session = _open_on_cuda(ort, graph, options, index, is_optional=device == "auto")
    place = f"cuda:{index}" if session else "cpu"
    if not session:
        session = _open_on_cpu(ort, graph, options)
        warn_of_sums(stage, session.get_modelmeta().custom_metadata_map.get(WEIGHT_BITS))
    _check_signature(session, graph, stage)
    return OnnxEngine(session, stage, place)


def _open_on_cuda(ort: Any, graph: Path, options: Any, index: int, *, is_optional: bool) -> Any:
    """Open on CUDA device `index`; None when that fails and the CPU may take its place."""
    level, reason = logging.INFO, "this onnxruntime has no CUDA; pip install 'saymask[gpu]'"
    if _CUDA in ort.get_available_providers():
        level, reason = logging.WARNING, "CUDA does not start; run: saymask doctor"
        providers = [(_CUDA, {"device_id": index}), _CPU]
        try:
            session = ort.InferenceSession(
                str(graph), options, providers=providers, enable_fallback=0
            )
            if session.get_providers()[0] == _CUDA:
                return session
        except Exception as error:
            reason = f"{error}; run: saymask doctor"
    if not is_optional:
        raise DeviceError(f"the device must work here; cuda:{index} does not: {reason}")
    _LOG.log(level, "device auto takes the CPU: %s", reason)
    return None


def _open_on_cpu(ort: Any, graph: Path, options: Any) -> Any:
    try:
        return ort.InferenceSession(str(graph), options, providers=[_CPU], enable_fallback=0)
    except Exception as error:
        raise EngineError(
            f"ONNX Runtime {ort.__version__} refuses {graph}: {error}; "
            "upgrade onnxruntime or export the bundle again"
        ) from error


def _options(ort: Any, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    allowed = allowed_cores()
    if threads is None and allowed != os.cpu_count():
        # Left alone, ONNX Runtime starts a thread for every core of the machine, also where a
        # container or taskset allows only some of them.
        threads = allowed
    options.intra_op_num_threads = threads or 0
    # A pattern of the first run's memory is laid out beside what that run holds: SAM ViT-H's image
    # stage took 10.9 GiB with it and takes 7.4 without, in the same time.
    options.enable_mem_pattern = False
    # Threads may spin within a run, which else takes up to twice as long, but not after it: left
    # alone they burn tens of milliseconds of the cores that the next stage needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _check_signature(session: Any, graph: Path, stage: StageSpec) -> None:
    for kind, specs, nodes in (
        ("inputs", stage.inputs, session.get_inputs()),
        ("outputs", stage.outputs, session.get_outputs()),
    ):
        expected, found = {spec.name for spec in specs}, {node.name for node in nodes}
        if expected != found:
            raise EngineError(
                f"{graph} must have the {kind} {', '.join(sorted(expected))}; "
                f"got {', '.join(sorted(found))}; export the bundle again"
            )
