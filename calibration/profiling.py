"""What ONNX Runtime makes of each node on this machine: which kernel, and its time."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..runtime.errors import EngineError, require
from .storage import save

__all__ = ["Kernel", "nodes_in_integers", "profile"]

_INTEGER_OPS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QLinearConv",
        "QLinearMatMul",
    }
)
_SUFFIX = "_kernel_time"
_COUNTER = re.compile(r"_token_\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One node after all of ONNX Runtime's rewrites."""

    name: str
    """Name of the node it was made of, or one derived from it or its tensors."""
    operator: str
    """What it computes."""
    least_ms: float
    """Quickest of its runs in milliseconds: other processes only ever add."""


def profile(
    models: Sequence[onnx.ModelProto],
    feed: Mapping[str, np.ndarray],
    *,
    threads: int,
    rounds: int,
) -> list[tuple[Kernel, ...]]:
    """Time every kernel of several graphs of one stage, all once in every round.

    Args:
        models: Of any size.
        feed: Real inputs by name.
        threads: Threads of one operator.
        rounds: How often each graph runs; it runs once more before.

    Returns:
        The kernels of each graph in the order they run.

    Raises:
        EngineError: ONNX Runtime refuses a graph or the feed.
        MissingExtraError: onnxruntime is not installed.
    """
    ort = require("onnxruntime", extra="cpu")
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in models]
        try:
            sessions = [
                _open(ort, model, folder, threads)
                for model, folder in zip(models, folders, strict=True)
            ]
            for _ in range(rounds + 1):
                for session in sessions:
                    session.run(None, dict(feed))
            reports = [Path(session.end_profiling()).read_text("utf-8") for session in sessions]
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime {ort.__version__} must run a graph to time its kernels; {error}"
            ) from error
    return [_kernels(json.loads(report)) for report in reports]


def nodes_in_integers(kernels: Iterable[Kernel], names: Iterable[str]) -> set[str]:
    """Return those of the nodes called `names` that an integer kernel computes."""
    found = {_COUNTER.sub("", each.name) for each in kernels if each.operator in _INTEGER_OPS}
    return found & set(names)


def _open(ort: Any, model: onnx.ModelProto, folder: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    graph, *_ = save(model, folder / "model.onnx")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _kernels(events: Iterable[Mapping[str, Any]]) -> tuple[Kernel, ...]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            found.setdefault(event["name"].removesuffix(_SUFFIX), []).append(event)
    return tuple(
        Kernel(
            name=name,
            operator=runs[0]["args"]["op_name"],
            least_ms=min(run["dur"] for run in runs) / 1e3,
        )
        for name, runs in found.items()
    )
