"""TensorRT runs a stage's compiled engine on a CUDA device, under either of its two names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import numpy as np

from ..cuda import DeviceArray, Stream
from ..engine import check_inputs
from ..engine_cache import TARGETS, EngineReport, find_engine, rebuild_command, served_sm
from ..errors import DeviceError, EngineError, require
from ..spec import StageSpec

__all__ = ["TensorRtEngine", "open_engine_of", "open_graph"]

_ERRORS_SHOWN = 3
_LOG = logging.getLogger("saymask")


class TensorRtEngine:
    """An execution context with a stream of its own.

    What it returns stays on the device: the next engine takes it without a copy to the host, and
    NumPy gets one when it asks, see `cuda.DeviceArray`. Where no axis varies, the first run is
    recorded as a CUDA graph, which all later ones replay; where that fails they run without.
    """

    def __init__(
        self, context: Any, log: Any, stage: StageSpec, report: EngineReport, stream: Stream
    ) -> None:
        """Wrap an open context that computes `stage` as `report` says, on the stream's device."""
        self.stage = stage
        self.device = stream.device
        self._context: Any = context
        self._log = log
        self._report = report
        self._stream = stream
        self._lock = Lock()
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in stage.outputs}
        self._is_fixed = all(shape.least == shape.most for shape in report.shapes)
        self._buffers: dict[str, DeviceArray] = {}
        self._graph: Any = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Compute the stage's outputs, by name, from its inputs, by name.

        Args:
            inputs: NumPy arrays, or arrays of this device as another engine returns them.

        Returns:
            `cuda.DeviceArray` by name, complete and independent of later runs.

        Raises:
            EngineError: The inputs do not fit the stage or the engine, or the computation failed.
        """
        check_inputs(self.stage, inputs)
        if self._context is None:
            raise EngineError(f"stage {self.stage.name!r} was closed; open it again")
        for shape in self._report.shapes:
            self._check_range(shape.input, inputs[shape.input].shape)
        with self._lock:
            self._stream.activate()
            # Held until the stream is done, as CUDA may read the host's memory until then.
            held = {name: _contiguous(array) for name, array in inputs.items()}
            outputs = self._replay(held) if self._is_fixed else self._enqueue(held)
            self._stream.synchronize()
        return outputs

    def close(self) -> None:
        """Give the context's memory back; it cannot run any more."""
        with self._lock:
            if self._context is not None:
                self._context = self._graph = None
                self._buffers.clear()
                self._stream.close()

    def _enqueue(self, inputs: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Run with addresses and shapes of this call."""
        held = {name: self._on_device(array) for name, array in inputs.items()}
        for name, array in held.items():
            self._context.set_input_shape(name, array.shape)
        outputs = {
            name: DeviceArray(self._stream, tuple(self._context.get_tensor_shape(name)), dtype)
            for name, dtype in self._dtypes.items()
        }
        for name, array in (*held.items(), *outputs.items()):
            self._context.set_tensor_address(name, array.address)
        self._execute()
        return outputs

    def _replay(self, inputs: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Run on buffers that keep their addresses, which a recorded graph needs."""
        is_first = not self._buffers
        if is_first:
            self._fix_buffers()
        for name, array in inputs.items():
            self._buffers[name].fill(array)
        if self._graph is None:
            self._execute()
        else:
            self._stream.launch(self._graph)
        outputs = {name: self._copied(self._buffers[name]) for name in self._dtypes}
        is_capturable = getattr(self._context, "is_stream_capturable", lambda _: True)
        if is_first and is_capturable(self._stream.handle):
            # Only now, as the first run loads the kernels and settles what is left open.
            self._graph = self._captured()
        return outputs

    def _captured(self) -> Any:
        """Record a run as a CUDA graph; None, which later runs do without, where that fails."""
        try:
            return self._stream.capture(self._execute)
        except EngineError as error:
            _LOG.warning(
                "stage %s runs without a CUDA graph, which costs some time: %s",
                self.stage.name,
                error,
            )
            return None

    def _fix_buffers(self) -> None:
        for limits in self._report.shapes:
            # The graph's axis may still vary where the engine takes one extent alone.
            self._context.set_input_shape(limits.input, limits.most)
        for tensor in (*self.stage.inputs, *self.stage.outputs):
            shape = tuple(self._context.get_tensor_shape(tensor.name))
            buffer = DeviceArray(self._stream, shape, np.dtype(tensor.dtype))
            self._context.set_tensor_address(tensor.name, buffer.address)
            self._buffers[tensor.name] = buffer

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError(
                f"stage {self.stage.name!r} failed in {self._report.key.library}: "
                f"{_said(self._log)}"
            )

    def _on_device(self, array: Any) -> DeviceArray:
        is_here = isinstance(array, DeviceArray) and array.device == self.device
        return array if is_here else self._copied(array)

    def _copied(self, array: Any) -> DeviceArray:
        copied = DeviceArray(self._stream, array.shape, array.dtype)
        copied.fill(array)
        return copied

    def _check_range(self, name: str, shape: tuple[int, ...]) -> None:
        limits = next(limits for limits in self._report.shapes if limits.input == name)
        bounds = zip(limits.least, shape, limits.most, strict=True)
        if not all(least <= extent <= most for least, extent, most in bounds):
            raise EngineError(
                f"{name} of stage {self.stage.name!r} must be from {limits.least} to "
                f"{limits.most} in this engine; got {shape}; give less at once, or build it "
                "with a larger --phrases"
            )


def open_graph(
    graph: Path, stage: StageSpec, *, device: str, threads: int | None
) -> TensorRtEngine:
    """Open the engine that `saymask build --target tensorrt` compiled from a graph.

    Args:
        graph: The ONNX file in its bundle.
        stage: What it computes.
        device: "auto", "cuda" or "cuda:N".
        threads: Says nothing to a GPU.

    Raises:
        DeviceError: The device is no CUDA device, or the engine was built for another one.
        EngineError: There is no engine, or it is stale, damaged or refused.
        MissingExtraError: tensorrt or cuda-python is not installed.
    """
    return open_engine_of("tensorrt", graph, stage, device=device)


def open_engine_of(library: str, graph: Path, stage: StageSpec, *, device: str) -> TensorRtEngine:
    """Open the engine that `library`, "tensorrt" or "tensorrt_rtx", compiled; see `open_graph`."""
    extra = next(target for target, name in TARGETS.items() if name == library)
    trt: Any = require(library, extra=extra)
    if device == "cpu":
        raise DeviceError(f"{library} runs on a CUDA device; got device 'cpu'; leave it out")
    index = int(device.partition(":")[2] or 0)
    bundle = graph.parents[len(PurePosixPath(stage.file).parts) - 1]
    path, report = find_engine(
        bundle,
        graph,
        stage,
        library=library,
        library_version=trt.__version__,
        index=index,
        served=served_sm(trt),
    )
    stream = Stream(index, extra=extra)
    log = _log(trt)
    engine = trt.Runtime(log).deserialize_cuda_engine(path.read_bytes())
    context = engine and engine.create_execution_context()
    if not context:
        stream.close()
        raise EngineError(
            f"{library} {trt.__version__} refuses {path}: {_said(log)}; "
            f"run: {rebuild_command(bundle, report)}"
        )
    return TensorRtEngine(context, log, stage, report, stream)


def _contiguous(array: Any) -> Any:
    return array if isinstance(array, DeviceArray) else np.ascontiguousarray(array)


def _said(log: Any) -> str:
    return "; ".join(log.errors[-_ERRORS_SHOWN:]) or "it gives no reason"


def _log(trt: Any) -> Any:
    """Make a logger that keeps the errors for our messages."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()
