"""A model on disk: one file, or two where protobuf cannot hold the weights; and read as needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from .graph import Graph, constant_bytes, inline

__all__ = ["INLINE_BYTES", "SMALL_BYTES", "read", "save", "spill"]

INLINE_BYTES = 2**30
"""Weights beyond this lie beside the graph; protobuf ends at 2 GiB."""

SMALL_BYTES = 1024
"""Constants up to this stay in the graph, where shape inference reads them."""


def save(
    model: onnx.ModelProto,
    path: Path,
    *,
    outputs: Sequence[onnx.ValueInfoProto] = (),
    inline_bytes: int = INLINE_BYTES,
) -> list[Path]:
    """Write a model of any size and, unlike `onnx.save_model`, leave it as it is.

    Args:
        model: With its weights inside, or as `read` returns it.
        path: File of the graph.
        outputs: Tensors that the written model returns instead of `model`'s outputs.
        inline_bytes: Weights of more bytes go into a second file, `path` with ".data" appended.

    Returns:
        The files written, the graph first; they belong into one folder.
    """
    graph = Graph(model)
    weight_bytes = sum(map(constant_bytes, graph.constants.values()))
    if weight_bytes <= inline_bytes:
        graph.constants = {name: inline(tensor) for name, tensor in graph.constants.items()}
        path.write_bytes(graph.model(outputs).SerializeToString())
        return [path]
    beside = path.with_name(f"{path.name}.data")
    with beside.open("wb") as file:
        for name, tensor in graph.constants.items():
            length = constant_bytes(tensor)
            if length > SMALL_BYTES:
                graph.constants[name] = _pointer(tensor, beside.name, file.tell(), length)
                file.write(inline(tensor).raw_data)
    path.write_bytes(graph.model(outputs).SerializeToString())
    return [path, beside]


def read(path: Path) -> onnx.ModelProto:
    """Read a model, but leave weights that lie beside the graph where they are.

    Its constants know their place on disk, which must stay as long as the model is used;
    `Graph.array` reads one at a time. So a model of gigabytes costs no memory until it runs.
    """
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(path.parent / entry.value)
    return model


def spill(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Write a model's weights beside `path` and return it as `read` does."""
    save(model, path, inline_bytes=0)
    return read(path)


def _pointer(tensor: onnx.TensorProto, file: str, offset: int, length: int) -> onnx.TensorProto:
    place = {"location": file, "offset": str(offset), "length": str(length)}
    return onnx.TensorProto(
        name=tensor.name,
        dims=tensor.dims,
        data_type=tensor.data_type,
        data_location=onnx.TensorProto.EXTERNAL,
        external_data=[
            onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items()
        ],
    )
