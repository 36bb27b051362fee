"""A model on disk: one file, or two where protobuf cannot hold the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from .graph import Graph

__all__ = ["INLINE_BYTES", "save"]

INLINE_BYTES = 2**30
"""Weights beyond this lie beside the graph; protobuf ends at 2 GiB."""

_SMALL_BYTES = 1024
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
        model: With its weights inside.
        path: File of the graph.
        outputs: Tensors that the written model returns instead of `model`'s outputs.
        inline_bytes: Weights of more bytes go into a second file, `path` with ".data" appended.

    Returns:
        The files written, the graph first; they belong into one folder.
    """
    graph = Graph(model)
    weight_bytes = sum(len(tensor.raw_data) for tensor in graph.constants.values())
    if weight_bytes <= inline_bytes:
        path.write_bytes(graph.model(outputs).SerializeToString())
        return [path]
    beside = path.with_name(f"{path.name}.data")
    with beside.open("wb") as file:
        for name, tensor in graph.constants.items():
            data = tensor.raw_data
            if len(data) > _SMALL_BYTES:
                graph.constants[name] = _pointer(tensor, beside.name, file.tell(), len(data))
                file.write(data)
    path.write_bytes(graph.model(outputs).SerializeToString())
    return [path, beside]


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
