"""An ONNX graph opened for editing: nodes in order, constants by name, extents where known."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..runtime.errors import UsageError

__all__ = ["Graph", "attribute", "constant_bytes", "inline"]


class Graph:
    """A graph a pass may change; `model()` closes it into a new model.

    Nodes are copies without what the exporter noted about them (stack traces with the builder's
    paths). Constants are the source model's own tensors, so weights are not held twice.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Open `model`, which stays as it is.

        Raises:
            UsageError: A node has no name, shares one, or holds a graph of its own.
        """
        self._source = model
        self.nodes = [_bare(node) for node in model.graph.node]
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input]
        self._taken = set(self.inputs) | set(self.constants)
        self._taken.update(name for node in self.nodes for name in node.output)
        _check_nodes(self.nodes)

    def array(self, name: str) -> np.ndarray:
        """Return the constant `name` as an array; one that lies on disk is read each time."""
        return numpy_helper.to_array(inline(self.constants[name]))

    def add(self, name: str, array: np.ndarray) -> str:
        """Keep `array` as a constant called `name`, or `name` with a number when that is taken."""
        name = self.fresh(name)
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def fresh(self, name: str) -> str:
        """Return a tensor name that is taken by nothing, `name` itself where possible."""
        number, free = 0, name
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free

    def makers(self) -> dict[str, onnx.NodeProto]:
        """Return the node that makes each tensor; none makes inputs and constants."""
        return {name: node for node in self.nodes for name in node.output}

    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Return the nodes that read each tensor, in order; a graph output is read by none."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    def extents(self) -> dict[str, tuple[int, ...]]:
        """Return the extents of each tensor whose shape the model states; 0 where one varies."""
        graph = self._source.graph
        return {
            value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.HasField("shape")
        }

    def model(self, outputs: Sequence[onnx.ValueInfoProto] = ()) -> onnx.ModelProto:
        """Return the edited graph as a model, without nodes and constants that nothing reads.

        Args:
            outputs: Tensors to return instead of the source model's outputs.
        """
        source = self._source
        outputs = outputs or source.graph.output
        nodes = _live(self.nodes, [value.name for value in outputs])
        read = {name for node in nodes for name in node.input}
        read.update(value.name for value in outputs)
        made = {name for node in nodes for name in node.output}
        graph = helper.make_graph(
            nodes,
            source.graph.name,
            source.graph.input,
            outputs,
            initializer=[tensor for name, tensor in self.constants.items() if name in read],
            value_info=[value for value in source.graph.value_info if value.name in made],
        )
        model = helper.make_model(
            graph,
            ir_version=source.ir_version,
            opset_imports=source.opset_import,
            functions=source.functions,
            producer_name=source.producer_name,
        )
        model.metadata_props.extend(source.metadata_props)
        return model


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute of `node`, or `default` when it has none of that name."""
    for held in node.attribute:
        if held.name == name:
            return helper.get_attribute_value(held)
    return default


def inline(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a constant with its numbers in it, also where `storage.read` left them on disk."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return tensor
    place = _place(tensor)
    with Path(place["location"]).open("rb") as file:
        file.seek(int(place["offset"]))
        data = file.read(int(place["length"]))
    return onnx.TensorProto(
        name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=data
    )


def constant_bytes(tensor: onnx.TensorProto) -> int:
    """Return how many bytes a constant's numbers take, wherever they are."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return int(_place(tensor)["length"])
    return len(tensor.raw_data)


def _place(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _bare(node: onnx.NodeProto) -> onnx.NodeProto:
    node = copy.copy(node)
    node.ClearField("metadata_props")
    node.ClearField("doc_string")
    return node


def _check_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    seen: set[str] = set()
    for node in nodes:
        if not node.name or node.name in seen:
            raise UsageError(
                f"every node must have a name of its own, which plans go by; got {node.name!r} "
                f"({node.op_type}) {'twice' if node.name else 'for one'}; name the nodes first"
            )
        if any(held.type == onnx.AttributeProto.GRAPH for held in node.attribute):
            raise UsageError(
                f"graphs must be flat; node {node.name!r} ({node.op_type}) holds one of its own; "
                f"export the model without control flow"
            )
        seen.add(node.name)


def _live(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
