"""INT8 taken back where it gains nothing on this machine, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from .plan import FLOATS, NodePlan, blocks
from .profiling import Kernel, profile
from .quantize import Candidate
from .trial import measure

__all__ = ["block_times", "drop_slow"]


def drop_slow(
    fp32: Candidate,
    candidate: Candidate,
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    threads: int,
    rounds: int = 25,
) -> Candidate:
    """Put blocks back to FP32 that take no longer in it, if the whole is then as quick.

    The time of a block is that of all its kernels, with what rounds its tensors. What rounding
    costs between an INT8 and an FP32 block shows only in the whole. To choose between static and
    dynamic INT8 for each block in the same way gained nothing on AVX-VNNI: 10.0 ms for a mask stage
    that is static in 9.1, and one form was best for every block of an image and a prompt stage.

    Args:
        fp32: The stage in FP32.
        candidate: The stage in INT8, from `quantize.candidates`.
        model: FP32 graph that its plan is for.
        feeds: Real inputs by name; blocks are timed on the first.
        threads: Threads of one operator.
        rounds: How often each of them is timed; see `trial.measure`.

    Returns:
        The candidate with fewer nodes in INT8, or as it was.

    Raises:
        EngineError: ONNX Runtime refuses a graph or a feed.
    """
    parts = blocks(model)
    profiles = profile([fp32.model, candidate.model], feeds[0], threads=threads, rounds=rounds)
    plan = dict(candidate.plan)
    float_ms, integer_ms = (block_times(parts, kernels) for kernels in profiles)
    for part, in_float, in_integers in zip(parts, float_ms, integer_ms, strict=True):
        reason = f"no gain: its block takes {in_integers:.3f} ms in INT8, {in_float:.3f} in FP32"
        for node in part if in_float <= in_integers else ():
            if node.name in plan and plan[node.name].precision not in FLOATS:
                plan[node.name] = NodePlan(precision="fp32", reason=reason)
    if plan == candidate.plan or candidate.lower is None:
        return candidate
    fewer = replace(candidate, plan=plan, model=candidate.lower(plan))
    _, whole, part = measure([fp32, candidate, fewer], feeds, threads=threads, rounds=rounds)
    return fewer if part.median_ms <= whole.median_ms else candidate


def block_times(
    parts: Sequence[Sequence[onnx.NodeProto]], kernels: Iterable[Kernel]
) -> list[float]:
    """Sum the times of kernels by block, in milliseconds.

    A kernel belongs to the block of the node or tensor whose name begins its own, but one that
    rounds a tensor to that of the first reader; one without, such as a change of layout, belongs
    with the kernel before it.

    Args:
        parts: From `plan.blocks`.
        kernels: From `profiling.profile`, of the same graph or what a plan made of it.
    """
    owners = {
        name: number
        for number, part in enumerate(parts)
        for node in part
        for name in (node.name, *node.output)
    }
    for number, part in enumerate(parts):
        for node in part:
            for name in node.input:
                owners.setdefault(f"{name}_quantize", number)
    times_ms = [0.0] * len(parts)
    owner = 0
    for kernel in kernels:
        name = kernel.name
        while name and name not in owners:
            name = name[: max(name.rfind("_"), name.rfind("/"), 0)]
        owner = owners.get(name, owner)
        times_ms[owner] += kernel.least_ms
    return times_ms
