"""A model in memory as the runtime runs it: its own engine, and ONNX Runtime's kernels."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from ..runtime.engine import Engine, open_graph
from ..runtime.errors import require
from ..runtime.spec import StageSpec, TensorSpec
from .storage import save

__all__ = ["executed_ops", "open_model", "tensors_from_values"]


def open_model(
    model: onnx.ModelProto,
    *,
    threads: int,
    expose: Sequence[str] = (),
    backend: str = "onnxruntime",
) -> Engine:
    """Open a model on the CPU as the runtime opens it from a bundle.

    Args:
        model: Of any size.
        threads: Threads of one operator.
        expose: Float tensors of the graph to return instead of its outputs.
        backend: Key of `engine.BACKENDS`.

    Raises:
        EngineError: The backend refuses the graph.
        MissingExtraError: Its library is not installed.
        UnknownNameError: There is no such backend.
    """
    exposed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in expose]
    stage = StageSpec(
        name=model.graph.name,
        file="model.onnx",
        inputs=tensors_from_values(model.graph.input),
        outputs=tensors_from_values(exposed or model.graph.output),
        precision="",
        reason="",
    )
    with tempfile.TemporaryDirectory() as folder:
        graph, *_ = save(model, Path(folder, stage.file), outputs=exposed)
        return open_graph(graph, stage, backend=backend, device="cpu", threads=threads)


def executed_ops(model: onnx.ModelProto) -> Counter[str]:
    """Count the operators that ONNX Runtime runs on this processor after all of its rewrites.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    ort = require("onnxruntime", extra="cpu")
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        graph, *_ = save(model, Path(folder, "model.onnx"))
        ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return Counter(node.op_type for node in optimized.graph.node)


def tensors_from_values(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Describe inputs or outputs of a graph; an axis without extent or name is given one."""
    return tuple(
        TensorSpec(
            name=value.name,
            dtype=helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            shape=tuple(
                axis.dim_value
                if axis.HasField("dim_value")
                else axis.dim_param or f"{value.name}_{number}"
                for number, axis in enumerate(value.type.tensor_type.shape.dim)
            ),
        )
        for value in values
    )
