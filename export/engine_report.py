"""Which precision each part of an engine has: what its graph asks for and what was built."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import onnx

from ..runtime.engine_cache import LayerCount, Share
from .halve import element_types

__all__ = ["asked_layers", "built_layers", "built_shares"]

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
_OUTPUTS = re.compile(r", Outputs: .*$")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_AROUND = "kgen"
"""Kind of a layer that does what is around products; one of its name may be a product's bias."""
_FEW_BITS = ("fp8", "int8", "int4")
_WIDEST_FIRST = ("fp32", "bf16", "fp16", *_FEW_BITS)
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


def built_shares(text: str, multiply_adds: Mapping[str, int]) -> tuple[Share, ...]:
    """Say what the layers compute a graph's products and convolutions in.

    Args:
        text: See `built_layers`; each layer names the graph's nodes that it is made of.
        multiply_adds: Of each product and convolution of the graph, by name.

    Returns:
        One for each precision, the most multiply-adds first.
    """
    found: dict[str, str] = {}
    layers = sorted(_LAYER.finditer(text), key=lambda layer: layer["kind"] == _AROUND)
    for layer in layers:
        for node in _NODE.findall(layer["tensors"]):
            found.setdefault(node, _computed_in(layer["tensors"]))
    nodes, work = Counter[str](), Counter[str]()
    for node, count in multiply_adds.items():
        precision = found.get(node, "unknown")
        nodes[precision] += 1
        work[precision] += count
    whole = work.total() or 1
    return tuple(
        Share(precision=name, nodes=nodes[name], multiply_adds=count, share=count / whole)
        for name, count in work.most_common()
    )


def _computed_in(tensors: str) -> str:
    """Return what a layer multiplies in.

    Few bits where what it reads and its weights have them: weights in few bits beside larger
    numbers are made large again first. Else what its first constant, the weight, and what it reads
    agree on; without weights the widest of what it reads.
    """
    constants = [
        _engine_name(each) for found in _CONSTANTS.findall(tensors) for each in _TYPE.findall(found)
    ]
    read = {
        _engine_name(each) for each in _TYPE.findall(_OUTPUTS.sub("", _CONSTANTS.sub("", tensors)))
    }
    agreed = read & {each for each in constants if each in _FEW_BITS} or read & set(constants[:1])
    return next((name for name in _WIDEST_FIRST if name in (agreed or read)), "unknown")


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
