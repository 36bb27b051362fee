"""A stage of a network as an ONNX graph."""

from __future__ import annotations

import gc
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

__all__ = ["IR_VERSION", "OPSET", "Stage", "trace"]

OPSET = 20
"""The first with one operator for GELU, which ONNX Runtime fuses and quantizes around."""
IR_VERSION = 9
"""The file format of that opset, read from ONNX Runtime 1.17; the exporter writes a newer one."""

_REGISTRY_LOG = "torch.onnx._internal.exporter._registration"


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
    """Trace a stage as an ONNX model with its weights inside; varying axes are of any extent."""
    labels = {label for axes in stage.varying.values() for label in axes.values()}
    dims = {label: torch.export.Dim(label, min=1, max=512) for label in labels}
    shapes = tuple(
        {axis: dims[label] for axis, label in stage.varying.get(name, {}).items()}
        for name in stage.examples
    )
    with _silent_exporter():
        program = torch.onnx.export(
            stage.module.eval(),
            tuple(stage.examples.values()),
            input_names=list(stage.examples),
            output_names=list(stage.outputs),
            dynamic_shapes=_grouped(shapes, stage.module),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # It is None only where the exporter is not dynamo's.
    model = program.model_proto
    model.ir_version = IR_VERSION
    del program
    _forget_weights()
    return model


def _forget_weights() -> None:
    """Let go of the weights that the exporter would keep of every network that was ever traced.

    They hang in caches, in cycles, and in onnxscript's rewriting rules, each of which remembers
    the last graph that it looked at.
    """
    import onnx_ir

    torch.compiler.reset()
    gc.collect()
    for thing in gc.get_objects():
        if issubclass(type(thing), onnx_ir.Value):
            thing.const_value = None


def _grouped(shapes: tuple, module: nn.Module) -> tuple:
    """Put the shapes of what goes into `*arguments` together, as torch.export wants them."""
    kinds = [each.kind for each in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return *shapes[:named], shapes[named:]


@contextmanager
def _silent_exporter() -> Iterator[None]:
    """Keep the exporter from warning of its own internals and of a torchvision nobody needs."""
    log = logging.getLogger(_REGISTRY_LOG)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
