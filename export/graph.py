"""A stage of a network as an ONNX graph."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from ..runtime.spec import TensorSpec

OPSET = 18
"""Read by ONNX Runtime from 1.14, TensorRT from 8.6 and TensorRT-RTX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One module of a system with what it takes to trace it."""

    name: str
    """Noun of the paper's figure."""
    module: nn.Module
    """What is traced, in evaluation mode."""
    examples: Mapping[str, Tensor]
    """An input of each name, in the order of `module.forward`."""
    outputs: tuple[str, ...]
    """Names of what `module.forward` returns."""
    varying: Mapping[str, Mapping[int, str]]
    """Axes of inputs that vary from call to call, with their names."""


@torch.no_grad()
def trace(stage: Stage) -> onnx.ModelProto:
    """Trace a stage as an ONNX model with its weights inside."""
    labels = {label for axes in stage.varying.values() for label in axes.values()}
    dims = {label: torch.export.Dim(label, min=1, max=512) for label in labels}
    shapes = tuple(
        {axis: dims[label] for axis, label in stage.varying.get(name, {}).items()}
        for name in stage.examples
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns of its own internals.
        program = torch.onnx.export(
            stage.module.eval(),
            tuple(stage.examples.values()),
            input_names=list(stage.examples),
            output_names=list(stage.outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    file = io.BytesIO()
    program.save(file)
    return onnx.load_from_string(file.getvalue())
