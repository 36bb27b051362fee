"""Rivals of a bundle: other ways to run its checkpoint, offered by other floors to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..errors import MissingExtraError, UnknownNameError
from ..segmenter import Segmenter
from .closed_loop import Workload

__all__ = [
    "CEILINGS",
    "GROUP",
    "Ceiling",
    "RivalRequest",
    "StageCeiling",
    "measure_ceiling",
    "open_rival",
    "rival_names",
]

GROUP = "saymask.rivals"
"""Entry points by name: functions of a bundle and a `RivalRequest` that return a `System`."""
CEILINGS = "saymask.ceilings"
"""Entry points by device: functions of the same arguments that return a `Ceiling`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalRequest:
    """What a rival is made of and for."""

    checkpoint: str | None
    """Folder, file or hub id of the bundle's checkpoint; None for the miniature."""
    work: Path
    """Folder in which rivals keep what takes long to make."""
    workload: Workload
    """What will be segmented; rivals that calibrate do so on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCeiling:
    """What one stage computes, and how quickly this machine multiplies matrices of its shapes."""

    stage: str
    """Name of the stage."""
    operations: int
    """Multiplications and additions of its products and convolutions in one run."""
    int8_gops: float
    """Billions of them a second, in INT8."""
    fp32_gops: float
    """Likewise, in FP32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What no engine on this machine can be expected to surpass."""

    int8_gops: float
    """Billions of operations a second on the best shape, in INT8."""
    fp32_gops: float
    """Likewise, in FP32."""
    stages: tuple[StageCeiling, ...]
    """In the order they run."""


def rival_names() -> tuple[str, ...]:
    """Name the rivals that are on offer, without importing them."""
    return tuple(sorted(entry.name for entry in entry_points(group=GROUP)))


def open_rival(name: str, bundle: Bundle, request: RivalRequest) -> Segmenter:
    """Open a rival behind the bundle's own pre- and postprocessing.

    Raises:
        MissingExtraError: A library that it needs is not installed.
        UnknownNameError: There is no such rival.
        SaymaskError: The rival's own refusals.
    """
    return Segmenter(bundle, _load(GROUP, "the rival", name)(bundle, request))


def measure_ceiling(bundle: Bundle, request: RivalRequest) -> Ceiling:
    """Measure how quickly this machine's CPU multiplies matrices like the bundle's.

    Raises:
        MissingExtraError: A library that it needs is not installed.
        UnknownNameError: No floor above offers to measure it.
        SaymaskError: See `RivalRequest`; the checkpoint must fit the bundle.
    """
    return _load(CEILINGS, "the ceiling of", "cpu")(bundle, request)


def _load(group: str, what: str, name: str) -> Callable[[Bundle, RivalRequest], Any]:
    offered: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=group)}
    if name not in offered:
        raise UnknownNameError(what, name, offered)
    try:
        return offered[name].load()
    except ImportError as error:
        raise MissingExtraError(
            f"{what} {name} needs a library that is not installed or does not load ({error}); "
            "run: pip install 'saymask[rivals]'"
        ) from error
