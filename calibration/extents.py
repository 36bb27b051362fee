"""How large the tensors of a graph are for given inputs, as far as that is known without a run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from .graph import Graph, constant_bytes
from .storage import SMALL_BYTES

__all__ = ["extents_of"]


def extents_of(
    model: onnx.ModelProto, feed: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Return the extents of the tensors that follow from those of the inputs.

    ONNX's own inference loses sight of a size that goes through a Reshape or a Concat. So the nodes
    that compute nothing but sizes are worked out first and become constants.

    Args:
        model: Graph whose large weights may lie elsewhere.
        feed: Inputs by name.
    """
    graph = Graph(model)
    # Weights say their own extents, and protobuf could not carry all of them at once.
    graph.constants = {name: _bare(tensor) for name, tensor in graph.constants.items()}
    inputs = set(graph.inputs)
    known = {
        name
        for name, tensor in graph.constants.items()
        if tensor.data_location != onnx.TensorProto.EXTERNAL
    }
    sized: list[onnx.NodeProto] = []
    others: list[onnx.NodeProto] = []
    for node in graph.nodes:
        read = {name for name in node.input if name}
        is_first = node.op_type == "Shape" and read <= inputs
        if is_first or (read and read <= known):
            sized.append(node)
            known.update(node.output)
        else:
            others.append(node)
    sizes = _worked_out(model, sized, feed)
    graph.constants |= sizes
    graph.nodes = others
    inferred = Graph(_inferred(graph, feed)).extents()
    return inferred | {name: tuple(tensor.dims) for name, tensor in sizes.items()}


def _bare(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a constant without its numbers, unless they may be sizes."""
    if constant_bytes(tensor) <= SMALL_BYTES:
        return tensor
    return onnx.TensorProto(
        name=tensor.name,
        dims=tensor.dims,
        data_type=tensor.data_type,
        data_location=onnx.TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key="location", value="left out")],
    )


def _worked_out(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], feed: Mapping[str, np.ndarray]
) -> dict[str, onnx.TensorProto]:
    graph = Graph(model)
    graph.nodes = nodes
    names = [name for node in nodes for name in node.output if name]
    if not names:
        return {}
    part = graph.model([onnx.helper.make_empty_tensor_value_info(name) for name in names])
    read = {name for node in nodes for name in node.input}
    taken = [value for value in part.graph.input if value.name in read]
    del part.graph.input[:]
    part.graph.input.extend(taken)
    values = ReferenceEvaluator(part).run(names, {value.name: feed[value.name] for value in taken})
    return {
        name: numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip(names, values, strict=True)
    }


def _inferred(graph: Graph, feed: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    model = graph.model()
    del model.graph.value_info[:]
    for value in model.graph.input:
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.extend(
            onnx.TensorShapeProto.Dimension(dim_value=extent) for extent in feed[value.name].shape
        )
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return shape_inference.infer_shapes(model)
