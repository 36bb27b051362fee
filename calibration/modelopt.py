"""NVIDIA ModelOpt as second opinion: the Q/DQ graph that it makes of ours, in its own environment.

It needs PyTorch and other versions of our libraries, so it never enters this process.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from ..runtime.errors import EngineError, MissingExtraError, UnknownNameError, UsageError
from .modelopt_job import GRAPH, MISSING, NAMES, QUANTIZED
from .plan import WEIGHTED_OPS, NodePlan
from .qdq import rounded_nodes
from .quantize import Candidate
from .storage import save

__all__ = ["COMMANDS", "ENVIRONMENT", "METHODS", "modelopt_candidate"]

ENVIRONMENT = Path(".venv-modelopt")
"""Where `COMMANDS` put the environment, from where they are run."""

COMMANDS = (
    f"python3.11 -m venv {ENVIRONMENT}",
    f"{ENVIRONMENT}/bin/pip install torch==2.13.0",
    f"{ENVIRONMENT}/bin/pip install nvidia-modelopt==0.47.0 onnx==1.21.0 onnxruntime==1.24.4 "
    "onnx-graphsurgeon onnxslim onnxscript lief ml_dtypes",
)
"""What makes the environment, without CUDA; ModelOpt's own extra "onnx" would bring it."""

METHODS = {"int8": ("max", "entropy"), "fp8": ("max",)}
"""Element -> how ModelOpt chooses ranges for it, the usual way first. Its FP8 scales are INT8 ones
times 127/448, which holds where a range covers everything."""

_LINES_SHOWN = 5


def modelopt_candidate(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    element: str,
    python: Path,
    method: str = "max",
    say: Callable[[str], None] = lambda line: None,
) -> Candidate:
    """Quantize a graph as NVIDIA ModelOpt does.

    Args:
        model: FP32 graph with names for all nodes, opset 19 to 21.
        feeds: Real inputs by name. ModelOpt holds all inner tensors of one run at once.
        element: Key of `METHODS`.
        python: Interpreter of the environment that `COMMANDS` make.
        method: One of the element's `METHODS`.
        say: Is told before it begins, as it takes a minute.

    Returns:
        A graph for TensorRT with the same float inputs and outputs, as from
        `symmetric.lower_symmetric`, and what each weighted node computes in. FP8 weights have a
        scale for each output channel; `qdq.runnable` makes it run on a CPU.

    Raises:
        EngineError: ModelOpt fails, or its graph has other inputs or outputs.
        MissingExtraError: There is no such interpreter, or it has no ModelOpt.
        UnknownNameError: There is no such element, or it has no such method.
        UsageError: There is no feed.
    """
    if element not in METHODS:
        raise UnknownNameError("element", element, METHODS)
    if method not in METHODS[element]:
        raise UnknownNameError(f"ModelOpt's method for {element}", method, METHODS[element])
    if not feeds:
        raise UsageError(
            "ModelOpt must see real inputs, as it makes some up otherwise; got none; give frames "
            "and phrases like those the model will meet"
        )
    say(f"modelopt quantizes to {element} ({method}) over {len(feeds)} runs")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(model, folder / GRAPH)
        names = [value.name for value in model.graph.input]
        (folder / NAMES).write_text(json.dumps(names), "utf-8")
        for number, feed in enumerate(feeds):
            np.savez(folder / f"{number:06d}.npz", *(feed[name] for name in names))
        _run(python, folder, element, method)
        quantized = onnx.load(folder / QUANTIZED)
    _check_interface(quantized, model)
    return Candidate(precision=element, model=quantized, plan=_plan(quantized, element))


def _run(python: Path, folder: Path, element: str, method: str) -> None:
    """Run the job of `folder` in another Python."""
    job = Path(__file__).with_name("modelopt_job.py")
    # Isolated: the job's own folder must not come first, as a file in it is called modelopt.
    words = [str(python), "-I", str(job), str(folder), element, method]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise _no_environment(python, str(error)) from error
    if done.returncode == MISSING:
        raise _no_environment(python, _end_of(done.stdout))
    if done.returncode or not (folder / QUANTIZED).is_file():
        raise EngineError(
            f"ModelOpt must turn the graph into {element}; it ended with code {done.returncode} "
            f"and said: {_end_of(done.stdout)}; take --quantizer saymask, or make its environment "
            f"again with: {'; '.join(COMMANDS)}"
        )


def _no_environment(python: Path, found: str) -> MissingExtraError:
    return MissingExtraError(
        f"ModelOpt must be installed for {python}, an environment of its own; {found}; make it "
        f"with: {'; '.join(COMMANDS)}"
    )


def _end_of(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip(" ^~")]
    return " | ".join(lines[-_LINES_SHOWN:]) or "nothing"


def _check_interface(found: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Hold inputs and outputs against ours, and take ours: notes about them are not kept."""
    for side in ("input", "output"):
        theirs, ours = getattr(found.graph, side), getattr(model.graph, side)
        if _interface(theirs) != _interface(ours):
            raise EngineError(
                f"ModelOpt must leave the graph's {side}s as they are, {_interface(ours)}; its "
                f"graph has {_interface(theirs)}; take --quantizer saymask"
            )
        del theirs[:]
        theirs.extend(ours)


def _interface(values: Sequence[onnx.ValueInfoProto]) -> list[tuple[str, int, list[int | str]]]:
    """Say each tensor's name, element type and axes."""
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in values
    ]


def _plan(quantized: onnx.ModelProto, element: str) -> dict[str, NodePlan]:
    rounded = rounded_nodes(quantized)
    taken = NodePlan(precision=element, reason="")
    left = NodePlan(precision="fp32", reason="ModelOpt leaves it in floating point")
    return {
        node.name: taken if node.name in rounded else left
        for node in quantized.graph.node
        if node.op_type in WEIGHTED_OPS
    }
