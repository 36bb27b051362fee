"""A bundle's graphs as engines for one kind of device, each compiled in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from ..calibration.fp8 import LEAST_FP8_SM, check_fp8
from ..runtime import machine
from ..runtime.bundle import Bundle
from ..runtime.engine_cache import (
    ENGINES,
    LEAST_SM,
    TARGETS,
    DeviceKey,
    EngineReport,
    ShapeRange,
    device_key,
    served_sm,
)
from ..runtime.errors import (
    DeviceError,
    EngineError,
    OutputError,
    SaymaskError,
    UnknownNameError,
    UsageError,
    require,
)
from ..runtime.live.memory_tracking import MOST_MEMORIES
from ..runtime.replace import replacing
from ..runtime.spec import StageSpec, TensorSpec
from .engine_build import EngineJob, build_engine

__all__ = ["CompileRecipe", "compile_bundle", "needed_bytes", "shape_range"]

_TYPED = ("fp32", "int8", "fp8", "int8-weights", "int4-weights")
"""Precisions of stages whose graphs say the type of every tensor as TensorRT wants it."""
_MOST_TILES = 5
"""Of a frame: all of it, and a grid of 2 x 2 or 1 x 3."""
_MASKS_A_PHRASE = 4
"""Things that a phrase describes, or ways to point at one; more take a larger `phrases`."""
_MOST_POINTS = 102
"""Those of a grid of 10 x 10 in a box, and the box's corners."""
_PAIRED = ("tokens", "points")
"""Axes that are never shorter than 2: begin and end, or two corners."""
_FULL = ("tiles", "memories")
"""Axes that are mostly as long as they may be."""
_FLOOR_BYTES = 512 << 20
_BYTES_PER_GRAPH_BYTE = {"fp32": 4, "fp16": 3}
"""By the engine's precision; measured with TensorRT-RTX 1.7.1 for 2.5 GiB of weights, BEiT-3-L's:
10021 MiB at most in FP32 and 6610 in FP16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileRecipe:
    """What engines a user wants."""

    target: str
    """Key of `engine_cache.TARGETS`."""
    precision: str = "fp32"
    """"fp32" or "fp16": what the graphs' floats become."""
    device_sm: int | None = None
    """Compute capability times ten to compile for alone; None is the GPU that is here, or with
    TensorRT-RTX all from 8.0 on."""
    phrases: int = 8
    """Most phrases of one run."""


def compile_bundle(
    bundle: Bundle,
    recipe: CompileRecipe,
    say: Callable[[str], None],
    step: Callable[[], None],
) -> tuple[EngineReport, ...]:
    """Compile every graph and put the engines into the bundle in one step.

    Args:
        bundle: Its graphs must be FP32 or exported for TensorRT.
        recipe: What to compile for.
        say: Is told what happens.
        step: Called now and then while a compiler works.

    Returns:
        One report a graph; engines and reports lie in `engines/<device key>/` of the bundle.

    Raises:
        DeviceError: The target cannot be compiled for here, or there is too little memory.
        EngineError: A graph is refused, or its compiler died.
        MissingExtraError: The target's library is not installed.
        OutputError: The bundle cannot be written.
        UsageError: The recipe makes no sense, or a stage is in a form of ONNX Runtime's.
    """
    if recipe.target not in TARGETS:
        raise UnknownNameError("target", recipe.target, TARGETS)
    if recipe.precision not in ("fp32", "fp16"):
        raise UnknownNameError("precision", recipe.precision, ("fp32", "fp16"))
    stages = [stage for stage in bundle.manifest.stages if stage.is_graph]
    for stage in stages:
        _check_stage(bundle, stage, recipe.precision)
    library = require(TARGETS[recipe.target], extra=recipe.target)
    key = device_key(TARGETS[recipe.target], library.__version__, _sm(library, recipe, bundle))
    try:
        with replacing(bundle.folder / ENGINES / key.folder) as folder:
            reports = []
            for stage in stages:
                say(f"compile {stage.name} in {recipe.precision}")
                reports.append(_compile_stage(bundle, stage, recipe, key, folder, step))
    except OSError as error:
        raise OutputError(
            f"engines must be written to {bundle.folder / ENGINES}, which failed: {error}; "
            "check its rights and the free space"
        ) from error
    return tuple(reports)


def needed_bytes(graph_bytes: int, precision: str) -> int:
    """Say how much memory, swap included, must be free to compile a graph.

    Args:
        graph_bytes: Its size on the disk, weights included.
        precision: "fp32" or "fp16": what the graph's floats become.
    """
    return _FLOOR_BYTES + _BYTES_PER_GRAPH_BYTE[precision] * graph_bytes


def _check_stage(bundle: Bundle, stage: StageSpec, precision: str) -> None:
    """Refuse what cannot be compiled before hours of work."""
    if stage.precision not in _TYPED:
        raise UsageError(
            f"engines are compiled from graphs in {', '.join(_TYPED)}; stage {stage.name!r} of "
            f"{bundle.folder} is {stage.precision}, which is for ONNX Runtime; export with "
            "--target rtx or tensorrt and build that"
        )
    memory = machine.memory_bytes()
    needed = needed_bytes(_graph_bytes(bundle.folder / stage.file), precision)
    free = memory["available"] + memory["swap"] if memory else needed
    if free < needed:
        raise DeviceError(
            f"compiling stage {stage.name!r} takes about {needed >> 20} MiB of memory; "
            f"{free >> 20} MiB are free, swap included; close programs, add swap, or build on a "
            "larger machine with the same system"
        )


def _sm(library: ModuleType, recipe: CompileRecipe, bundle: Bundle) -> tuple[int, ...]:
    """Settle which compute capabilities to compile for; what a user names must know FP8."""
    is_fp8 = any(stage.precision == "fp8" for stage in bundle.manifest.stages)
    named = _named_sm(library, recipe)
    if named is None:
        least = LEAST_FP8_SM if is_fp8 else LEAST_SM
        return tuple(number for number in served_sm(library) or () if number >= least)
    if is_fp8:
        check_fp8(named)
    return (named,)


def _named_sm(library: ModuleType, recipe: CompileRecipe) -> int | None:
    """Say which one compute capability is wished for; None where TensorRT-RTX takes all."""
    if recipe.target == "rtx":
        numbers = served_sm(library) or ()
        if recipe.device_sm not in (None, *numbers):
            raise UsageError(
                f"--device-sm must be one of {', '.join(map(str, numbers))} for "
                f"tensorrt_rtx {library.__version__}; got {recipe.device_sm}"
            )
        return recipe.device_sm
    here = [int(device.capability.replace(".", "")) for device in machine.cuda_devices()]
    if not here or recipe.device_sm not in (None, here[0]):
        wanted = f"sm {recipe.device_sm}" if recipe.device_sm else "one"
        raise DeviceError(
            "tensorrt compiles on the GPU that the engine is for; "
            f"{wanted} was asked for and this machine has {here or 'none'}; "
            "build there, or take --target rtx, which needs none"
        )
    return here[0]


def _compile_stage(
    bundle: Bundle,
    stage: StageSpec,
    recipe: CompileRecipe,
    key: DeviceKey,
    folder: Path,
    step: Callable[[], None],
) -> EngineReport:
    tokenizer = bundle.manifest.tokenizer
    most = {
        "phrases": recipe.phrases,
        "tokens": tokenizer.max_tokens if tokenizer else 0,
        "memories": MOST_MEMORIES,
        "tiles": _MOST_TILES,
        "masks": _MASKS_A_PHRASE * recipe.phrases,
        "points": _MOST_POINTS,
    }
    job = EngineJob(
        stage=stage.name,
        graph=bundle.folder / stage.file,
        shapes=tuple(shape_range(tensor, most) for tensor in stage.inputs),
        precision=recipe.precision,
        phrases=recipe.phrases,
        key=key,
        folder=folder,
    )
    # Spawned, as CUDA doesn't survive a fork; apart, as the compiler may be killed for memory.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_build_and_send, args=(job, sender), daemon=True)
    child.start()
    sender.close()
    try:
        return _received(receiver, child, stage, step)
    finally:
        child.kill()
        child.join()


def shape_range(tensor: TensorSpec, most: dict[str, int]) -> ShapeRange:
    """Give each axis that varies its range, from 1 (tokens and points: 2) to `most`.

    Tuned are one phrase or mask, the middle of the tokens and points, all tiles, and all memories,
    as a stream has them soon.
    """
    unknown = {axis for axis in tensor.shape if isinstance(axis, str)} - set(most)
    if unknown:
        raise UsageError(
            f"axes that vary must be named {' or '.join(most)}; {tensor.name} has "
            f"{', '.join(sorted(unknown))}; this saymask cannot compile it"
        )

    def extents(limits: Callable[[str], int]) -> tuple[int, ...]:
        return tuple(limits(axis) if isinstance(axis, str) else axis for axis in tensor.shape)

    def least(axis: str) -> int:
        return min(2 if axis in _PAIRED else 1, most[axis])

    def usual(axis: str) -> int:
        if axis in _PAIRED:
            return (least(axis) + most[axis]) // 2
        return most[axis] if axis in _FULL else 1

    return ShapeRange(
        input=tensor.name,
        least=extents(least),
        usual=extents(usual),
        most=extents(lambda axis: most[axis]),
    )


def _build_and_send(job: EngineJob, sender: Connection) -> None:
    """Run in the child: sends None at each step, and in the end a report or an error."""
    try:
        sender.send(build_engine(job, lambda: sender.send(None)))
    except SaymaskError as error:
        sender.send(error)


def _received(
    receiver: Connection,
    child: BaseProcess,
    stage: StageSpec,
    step: Callable[[], None],
) -> EngineReport:
    """Wait for the child's report.

    Raises:
        EngineError: It died before it sent anything.
        SaymaskError: What it sent.
    """
    while True:
        try:
            message = receiver.recv()
        except EOFError:
            child.join()
            raise EngineError(
                f"the compiler of stage {stage.name!r} must end with an engine; "
                f"{_end_of(child.exitcode)}"
            ) from None
        if isinstance(message, SaymaskError):
            raise message
        if message is not None:
            return message
        step()


def _end_of(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return (
            "it was killed, as a system out of memory does; close programs, add swap, or build on "
            "a larger machine with the same system"
        )
    if exit_code is not None and exit_code < 0:
        return f"it crashed with {signal.Signals(-exit_code).name}; upgrade the library"
    return f"it ended with code {exit_code}, what it says stands above; run: saymask doctor"


def _graph_bytes(graph: Path) -> int:
    beside = graph.with_name(f"{graph.name}.data")
    return sum(path.stat().st_size for path in (graph, beside) if path.is_file())
