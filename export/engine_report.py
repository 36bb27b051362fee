"""Which precision each part of an engine has: what its graph asks for and what was built."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import onnx

from ..runtime.engine_cache import LayerCount
from .halve import element_types

__all__ = ["asked_layers", "built_layers"]

_GRAPH_NAMES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "FLOAT8E4M3FN": "fp8"}
_ENGINE_NAMES = (
    ("bfloat16", "bf16"),
    ("float8", "fp8"),
    ("half", "fp16"),
    ("fp16", "fp16"),
    ("fp32", "fp32"),
    ("float", "fp32"),
    ("int8", "int8"),
)
"""Words of a compiler for a type, the first that is in its text counts: "Half" in the newer ones,
"Row major linear FP16 format" in older ones."""
_LAYER = re.compile(r"^Name: .*?, LayerType: (?P<kind>\w+), Inputs: (?P<tensors>.*)$", re.MULTILINE)
_CONSTANTS = re.compile(r"Constants: \[.*?\](?=, Outputs)")
_TYPE = re.compile(r"Datatype: ([^,}\]]+)")
_SMALL = re.compile(r"Datatype: (Int4|Int8|FP8)\b")
"""Constants that count: weights in small numbers. Others may be biases and scales."""


def asked_layers(model: onnx.ModelProto) -> tuple[LayerCount, ...]:
    """Count the operators of a graph by the types of what they read and return."""
    types = {
        name: _graph_name(onnx.TensorProto.DataType.Name(kind))
        for name, kind in element_types(model).items()
    }
    return _counts(
        (
            node.op_type,
            _joined(types[name] for name in (*node.input, *node.output) if name in types),
        )
        for node in model.graph.node
    )


def built_layers(text: str) -> tuple[LayerCount, ...]:
    """Count the layers of an engine by the types of what they read and return.

    Args:
        text: A compiler's log, or an inspector's ONELINE text, of an engine with detailed
            profiling verbosity: a line "Name: ..., LayerType: ..., Inputs: [...]" a layer.
    """
    return _counts(
        (found["kind"], _joined(map(_engine_name, _layer_types(found["tensors"]))))
        for found in _LAYER.finditer(text)
    )


def _layer_types(tensors: str) -> list[str]:
    """List the types of what a layer reads and returns, and of its weights in small numbers."""
    return _TYPE.findall(_CONSTANTS.sub("", tensors)) + _SMALL.findall(tensors)


def _graph_name(name: str) -> str:
    return _GRAPH_NAMES.get(name, name.lower())


def _engine_name(text: str) -> str:
    words = text.strip().lower()
    return next((name for word, name in _ENGINE_NAMES if word in words), words)


def _joined(names: Iterable[str]) -> str:
    """Join what counts of the types: numbers with a fraction or of few bits, else all of them."""
    found = set(names)
    numbers = {name for name in found if name.startswith(("fp", "bf", "int8", "int4"))}
    return "+".join(sorted(numbers or found)) or "none"


def _counts(rows: Iterable[tuple[str, str]]) -> tuple[LayerCount, ...]:
    return tuple(
        LayerCount(kind=kind, precision=precision, count=count)
        for (kind, precision), count in sorted(Counter(rows).items())
    )
