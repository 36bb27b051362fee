"""NVIDIA ModelOpt as second opinion: the Q/DQ graph that it makes of ours, in its own environment.

It needs PyTorch and other versions of our libraries, so it never enters this process.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from ..runtime.errors import EngineError, UnknownNameError, UsageError
from .modelopt_job import GRAPH, MISSING, NAMES, QUANTIZED
from .other_python import run_job
from .passes import replace_resizes
from .plan import FLOATS, WEIGHTED_OPS, NodePlan, blocks
from .qdq import restore, rounded_nodes
from .quantize import Calibration, Candidate, plannable
from .storage import save, spill

__all__ = [
    "COMMANDS",
    "ENVIRONMENT",
    "LIBRARY",
    "METHODS",
    "PYTHON",
    "modelopt_candidate",
    "modelopt_candidates",
]

ENVIRONMENT = Path(".venv-modelopt")
"""Where `COMMANDS` put the environment, from where they are run."""

PYTHON = ENVIRONMENT / "bin" / "python"
"""Its interpreter."""

COMMANDS = (
    f"python3.11 -m venv {ENVIRONMENT}",
    f"{ENVIRONMENT}/bin/pip install torch==2.13.0",
    f"{ENVIRONMENT}/bin/pip install nvidia-modelopt==0.47.0 onnx==1.21.0 onnxruntime==1.24.4 "
    "onnx-graphsurgeon onnxslim onnxscript lief ml_dtypes",
)
"""What makes the environment, without CUDA; ModelOpt's own extra "onnx" would bring it."""

LIBRARY = "ModelOpt"
"""What it must have, in messages."""

METHODS = {"int8": ("max", "entropy"), "fp8": ("max",)}
"""Element -> how ModelOpt chooses ranges for it, the usual way first. Its FP8 scales are INT8 ones
times 127/448, which holds where a range covers everything."""


def modelopt_candidates(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    precision: str,
    calibration: Calibration,
    python: Path,
) -> tuple[Candidate, ...]:
    """Do for TensorRT what `quantize.candidates` does, by ModelOpt.

    Args:
        model: FP32 graph of one stage, opset 19 to 21.
        feeds: See `modelopt_candidate`.
        precision: Key of `METHODS`.
        calibration: Its `folder` and `say` count; how ranges are taken is ModelOpt's own.
        python: See `modelopt_candidate`.

    Returns:
        FP32, then the quantized form if a node of it is. What a plan lifts out of that reads
        nothing rounded, nor do sums and norms of a block in which nothing else is quantized.

    Raises:
        SaymaskError: See `modelopt_candidate`.
    """
    fp32, plain = replace_resizes(model), plannable(model)
    found = modelopt_candidate(plain, feeds, element=precision, python=python, say=calibration.say)
    kept = [Candidate(precision="fp32", model=fp32, plan={})]
    if any(each.precision not in FLOATS for each in found.plan.values()):
        folder = calibration.folder
        small = spill(found.model, folder / "modelopt.onnx") if folder else found.model
        lower = partial(_lower, small, plain, found.plan)
        kept.append(replace(found, model=small, lower=lower))
    return tuple(kept)


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


def _lower(
    small: onnx.ModelProto,
    plain: onnx.ModelProto,
    taken: Mapping[str, NodePlan],
    plan: Mapping[str, NodePlan],
) -> onnx.ModelProto:
    """Return ModelOpt's graph without what a plan lifts out of the one that it took."""
    quantized = {name for name, each in taken.items() if each.precision not in FLOATS}
    lifted = {name for name in quantized if plan[name].precision in FLOATS}
    floats: set[str] = set()
    is_float = False
    for block in blocks(plain):
        # A block without any, such as a second sum in a row, belongs with the one before.
        own = [node.name for node in block if node.name in quantized]
        is_float = lifted.issuperset(own) if own else is_float
        floats.update(node.name for node in block if is_float or node.name in lifted)
    return restore(small, plain, floats)


def _run(python: Path, folder: Path, element: str, method: str) -> None:
    """Run the job of `folder` in another Python."""
    run_job(
        Path(__file__).with_name("modelopt_job.py"),
        [str(folder), element, method],
        python=python,
        result=folder / QUANTIZED,
        missing=MISSING,
        library=LIBRARY,
        commands=COMMANDS,
        must=f"ModelOpt must turn the graph into {element}",
        otherwise="take --quantizer saymask",
    )


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
