"""OpenVINO runs a stage on the CPU, from the same ONNX graphs as ONNX Runtime."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from ..engine import check_inputs
from ..errors import DeviceError, EngineError, require
from ..spec import WEIGHT_BITS, StageSpec
from ..sums import warn_of_sums

__all__ = [
    "ExecutedWork",
    "OpenVinoEngine",
    "core",
    "executed_precisions",
    "integer_nodes",
    "library",
    "open_graph",
]

_TELEMETRY = "openvino_telemetry"
_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_PRODUCTS = ("MatMul", *_CONVOLUTIONS, "ConvolutionBackpropData", "GroupConvolutionBackpropData")
_KERNELS_OF_PRODUCTS = ("FullyConnected", "MatMul")
_RESCALED = "/DequantizationMultiply"
_PRECISIONS = {"u8": "int8", "i8": "int8", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedWork:
    """What a graph computes in one precision."""

    nodes: int
    """Products and convolutions."""
    multiply_adds: int
    """What they multiply and add in one run."""


class OpenVinoEngine:
    """A compiled model with one request; runs of several threads wait for each other.

    Axes may vary from run to run without a new compilation: the first run of a new extent costs up
    to an eighth of a run more, as kernels are made by shape.
    """

    def __init__(self, compiled: Any, stage: StageSpec) -> None:
        """Wrap a compiled model that computes `stage`."""
        self.stage = stage
        self.device = "cpu"
        self._request: Any = compiled.create_infer_request()
        self._lock = Lock()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the stage's outputs, by name, from its inputs, by name.

        Raises:
            EngineError: The inputs do not fit the stage, or the computation failed.
        """
        check_inputs(self.stage, inputs)
        # What an engine of another backend left on its device comes to the host here.
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        with self._lock:
            if self._request is None:
                raise EngineError(f"stage {self.stage.name!r} was closed; open it again")
            try:
                self._request.infer(arrays, share_inputs=True)
            except Exception as error:
                raise EngineError(
                    f"stage {self.stage.name!r} failed in OpenVINO: {error}"
                ) from error
            # Copies, as the next run writes into the same memory.
            return {
                tensor.name: np.array(self._request.get_tensor(tensor.name).data)
                for tensor in self.stage.outputs
            }

    def close(self) -> None:
        """Give the model's memory back; it cannot run any more."""
        with self._lock:
            self._request = None


def open_graph(
    graph: Path, stage: StageSpec, *, device: str, threads: int | None
) -> OpenVinoEngine:
    """Open a graph as an engine.

    Args:
        graph: An ONNX file, external data beside it, or OpenVINO's own .xml with its .bin.
        stage: What it computes.
        device: "auto" or "cpu".
        threads: Threads of the CPU; None leaves one for each physical core.

    Raises:
        DeviceError: Another device was asked for.
        EngineError: OpenVINO refuses the graph, or it has other inputs or outputs.
        MissingExtraError: openvino is not installed.
    """
    if device not in ("auto", "cpu"):
        raise DeviceError(f"openvino computes on auto or cpu here; got {device}; name one of them")
    openvino = library()
    model = _read(openvino, graph)
    compiled = _compile(openvino, model, graph, threads)
    warn_of_sums(stage, _noted(model, WEIGHT_BITS))
    for kind, specs, ports in (
        ("inputs", stage.inputs, compiled.inputs),
        ("outputs", stage.outputs, compiled.outputs),
    ):
        expected, found = {spec.name for spec in specs}, {port.any_name for port in ports}
        if expected != found:
            raise EngineError(
                f"the {kind} of {graph} must be {', '.join(sorted(expected))}; "
                f"got {', '.join(sorted(found))}; export the bundle again"
            )
    return OpenVinoEngine(compiled, stage)


def executed_precisions(
    graph: Path, shapes: Mapping[str, Sequence[int]]
) -> dict[str, ExecutedWork]:
    """Ask OpenVINO what it really computes a graph's products and convolutions in.

    An attention that became one kernel counts as what that kernel reads.

    Args:
        graph: As for `open_graph`.
        shapes: Extents of every input, by name.

    Returns:
        Precision -> work: "int8", "fp32", "fp16" or "bf16", or OpenVINO's own name of another.

    Raises:
        EngineError: OpenVINO refuses the graph or the shapes.
        MissingExtraError: openvino is not installed.
    """
    openvino = library()
    model = _shaped(openvino, graph, shapes)
    multiply_adds = {
        node.get_friendly_name(): _multiply_adds(node)
        for node in model.get_ops()
        if node.get_type_name() in _PRODUCTS
    }
    found: dict[str, ExecutedWork] = {}
    for node in _compile(openvino, model, graph, threads=1).get_runtime_model().get_ops():
        for precision, count in _executed(node, multiply_adds):
            so_far = found.get(precision, ExecutedWork(nodes=0, multiply_adds=0))
            found[precision] = ExecutedWork(
                nodes=so_far.nodes + 1, multiply_adds=so_far.multiply_adds + count
            )
    return found


def integer_nodes(graph: Path, shapes: Mapping[str, Sequence[int]]) -> set[str]:
    """Name the nodes of a graph that became part of a kernel which reads integers.

    Args:
        graph: As for `open_graph`.
        shapes: Extents of every input, by name.

    Raises:
        SaymaskError: See `executed_precisions`.
    """
    openvino = library()
    compiled = _compile(openvino, _shaped(openvino, graph, shapes), graph, threads=1)
    return {
        name
        for node in compiled.get_runtime_model().get_ops()
        for name in (_originals(node) if _precision(node) == "int8" else _rescaled(node))
    }


def _precision(node: Any) -> str:
    kind = str(node.get_rt_info()["runtimePrecision"].astype(str))
    return _PRECISIONS.get(kind, kind)


def _originals(node: Any) -> list[str]:
    """Name the nodes that a kernel was made of."""
    names = node.get_rt_info()["originalLayersNames"].astype(str)
    return list(dict.fromkeys(names.replace(_RESCALED, "").split(",")))


def _rescaled(node: Any) -> list[str]:
    """Name the nodes of a kernel whose integers are scaled only after them.

    Small products with what lies between them may become one kernel that goes by what it begins
    and ends with, FP32, whatever it multiplies.
    """
    names = node.get_rt_info()["originalLayersNames"].astype(str).split(",")
    return [name.removesuffix(_RESCALED) for name in names if name.endswith(_RESCALED)]


def _executed(node: Any, multiply_adds: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return precision and multiply-adds of each product or convolution in a kernel."""
    if node.get_rt_info()["layerType"].astype(str).startswith(_KERNELS_OF_PRODUCTS):
        # Such a kernel goes by the name of the last sum or product that it took in.
        shape = tuple(node.input_value(0).get_shape())
        return [(_precision(node), math.prod(node.output(0).get_shape()) * shape[-1])]
    in_integers, otherwise = _rescaled(node), _precision(node)
    return [
        ("int8" if name in in_integers else otherwise, multiply_adds[name])
        for name in _originals(node)
        if name in multiply_adds
    ]


def _multiply_adds(node: Any) -> int:
    """Count what a product or a convolution of known shapes multiplies and adds."""
    rows, weight = (tuple(node.input_value(number).get_shape()) for number in (0, 1))
    out, kind = tuple(node.output(0).get_shape()), node.get_type_name()
    if kind == "MatMul":
        return math.prod(out) * rows[-2 if node.get_attributes()["transpose_a"] else -1]
    channels = 2 if kind.startswith("Group") else 1
    if kind in _CONVOLUTIONS:
        return math.prod(out) * math.prod(weight[channels:])
    return math.prod(rows) * math.prod(weight[channels:])


def library() -> ModuleType:
    """Import openvino without its telemetry, which reports every import over the network.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]
    return require("openvino", extra="openvino")


def core() -> Any:
    """Return OpenVINO's core, one for the whole process.

    A core takes its CPU plugin with it when it goes, and that unmaps the stack it has put up for
    the signals of the thread that loaded it. Gone in another thread, it leaves a stack that is
    no more, on which the next Ctrl-C ends the process.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    return _core(library())


@cache
def _core(openvino: ModuleType) -> Any:
    return openvino.Core()


def _read(openvino: Any, graph: Path) -> Any:
    try:
        return core().read_model(graph)
    except Exception as error:
        raise _refusal(openvino, graph, error) from error


def _noted(model: Any, name: str) -> str | None:
    """Return what an ONNX graph's metadata, or the .xml made of it, says under a name."""
    path = ["framework", name]
    return model.get_rt_info(path).astype(str) if model.has_rt_info(path) else None


def _shaped(openvino: Any, graph: Path, shapes: Mapping[str, Sequence[int]]) -> Any:
    model = _read(openvino, graph)
    try:
        model.reshape({name: list(shape) for name, shape in shapes.items()})
    except Exception as error:
        raise EngineError(f"{graph} must take the shapes {dict(shapes)}: {error}") from error
    return model


def _compile(openvino: Any, model: Any, graph: Path, threads: int | None) -> Any:
    options = {
        # The graph says what is rounded: left alone, processors with BF16 compute FP32 in it.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Threads tied to cores wait for whatever else runs there.
        "ENABLE_CPU_PINNING": False,
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        return core().compile_model(model, "CPU", options)
    except Exception as error:
        raise _refusal(openvino, graph, error) from error


def _refusal(openvino: Any, graph: Path, error: Exception) -> EngineError:
    return EngineError(
        f"OpenVINO {openvino.__version__} refuses {graph}: {error}; "
        "upgrade openvino or export the bundle again"
    )
