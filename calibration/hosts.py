"""What runs a target's graphs on this CPU, where they are timed and judged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ..runtime.backends import openvino
from ..runtime.engine import CPU_BACKENDS, Engine
from .profiling import nodes_in_integers, profile
from .session import open_model
from .storage import save

__all__ = ["HOSTS", "ONNXRUNTIME", "OPENVINO", "Host", "host_of"]

_Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A library that runs graphs here, and tells what it made of them."""

    backend: str
    """Key of `engine.BACKENDS`."""
    integer_nodes: Callable[[onnx.ModelProto, _Feed, Collection[str]], set[str]]
    """Takes a graph, real inputs by name and names of nodes; returns those that it computes in
    integers."""

    def open(self, model: onnx.ModelProto, *, threads: int) -> Engine:
        """Open a model of any size with that many threads of one operator.

        Raises:
            EngineError: The library refuses the graph.
            MissingExtraError: It is not installed.
        """
        return open_model(model, threads=threads, backend=self.backend)


def host_of(target: str) -> Host:
    """Return what runs a target's graphs here: the target itself, or what stands in for it."""
    return HOSTS[CPU_BACKENDS[target]]


def _run_in_integers(model: onnx.ModelProto, feed: _Feed, names: Collection[str]) -> set[str]:
    [kernels] = profile([model], feed, threads=1, rounds=1)
    return nodes_in_integers(kernels, names)


def _compiled_to_integers(model: onnx.ModelProto, feed: _Feed, names: Collection[str]) -> set[str]:
    shapes = {name: array.shape for name, array in feed.items()}
    with tempfile.TemporaryDirectory() as folder:
        graph, *_ = save(model, Path(folder, "model.onnx"))
        return openvino.integer_nodes(graph, shapes).intersection(names)


ONNXRUNTIME = Host(backend="onnxruntime", integer_nodes=_run_in_integers)
OPENVINO = Host(backend="openvino", integer_nodes=_compiled_to_integers)
HOSTS = {host.backend: host for host in (ONNXRUNTIME, OPENVINO)}
"""By backend."""
