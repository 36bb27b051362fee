"""Candidates of one stage measured side by side: time, difference from FP32, integer kernels."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..runtime.engine import Engine
from ..runtime.errors import OutputError, UsageError
from .arrays import StoredArrays
from .hosts import ONNXRUNTIME, Host
from .plan import FLOATS
from .quantize import Candidate
from .turns import Turns

__all__ = ["Difference", "Trial", "measure"]

_LEAST_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One output beside FP32's, over all feeds."""

    output: str
    """Name of the output."""
    max_abs: float
    """Largest absolute difference of two elements."""
    cosine: float
    """Cosine between both outputs, each taken as one long vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate as measured beside the others."""

    candidate: Candidate
    """What was measured."""
    median_ms: float
    """Median of the interleaved runs in milliseconds; see `measure`. NaN where none was timed."""
    differences: tuple[Difference, ...]
    """Every output beside FP32's."""
    integer_kernels: int
    """Planned nodes that the host computes in integers; 0 where none was timed."""

    @property
    def least_cosine(self) -> float:
        """Cosine of the output that differs most from FP32's."""
        return float(np.min([difference.cosine for difference in self.differences]))


def measure(
    candidates: Sequence[Candidate],
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    threads: int,
    rounds: int,
    enough_s: float = math.inf,
    host: Host = ONNXRUNTIME,
) -> tuple[Trial, ...]:
    """Time candidates in one process and compare their outputs with FP32's.

    All run once in every round, in an order drawn anew; large ones are opened for it one after the
    other and run once untimed. One thread is timed by its own processor
    time, which other processes cannot stretch; several are timed by the clock on the wall and
    should have the machine for themselves.

    Args:
        candidates: From `quantize.candidates`; one of them is FP32.
        feeds: Real inputs by name.
        threads: Threads of one operator.
        rounds: How often every candidate is timed; 0 compares the outputs alone.
        enough_s: After so many seconds no further round begins, but three are always run.
        host: What runs them; see `hosts.host_of`.

    Raises:
        UsageError: FP32 or feeds are missing, or rounds are negative.
        EngineError: The host refuses a graph or a feed.
        MissingExtraError: It is not installed.
        OutputError: There is no room on disk for FP32's outputs.
    """
    names = [candidate.precision for candidate in candidates]
    if "fp32" not in names or not feeds or rounds < 0:
        raise UsageError(
            "a comparison needs the candidate fp32, a feed and no negative rounds; got "
            f"{', '.join(names)}, {len(feeds)} feeds and {rounds} rounds"
        )
    fp32 = names.index("fp32")
    turns = Turns()
    with ExitStack() as stack:
        engines = [
            stack.enter_context(
                closing(turns.take(each.model, partial(host.open, each.model, threads=threads)))
            )
            for each in candidates
        ]
        differences = _compare(
            engines, fp32, feeds, Path(stack.enter_context(tempfile.TemporaryDirectory()))
        )
        times_ms = _time(engines, turns, feeds, threads, rounds, enough_s)
    return tuple(
        Trial(
            candidate=candidate,
            median_ms=float(np.median(times_ms[:, which])) if rounds else math.nan,
            differences=differences[which],
            integer_kernels=_integer_kernels(candidate, feeds[0], host) if rounds else 0,
        )
        for which, candidate in enumerate(candidates)
    )


def _time(
    engines: Sequence[Engine],
    turns: Turns,
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    rounds: int,
    enough_s: float,
) -> np.ndarray:
    """Return the milliseconds of each run, (rounds, engines)."""
    times_ms: list[np.ndarray] = []
    generator = np.random.default_rng(0)
    clock_ns = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    began_s = time.monotonic()
    while len(times_ms) < rounds:
        if len(times_ms) >= _LEAST_ROUNDS and time.monotonic() - began_s > enough_s:
            break
        feed, took_ms = feeds[len(times_ms) % len(feeds)], np.empty(len(engines))
        for which in generator.permutation(len(engines)):
            if not turns.is_ready(engines[which]):
                engines[which].run(feed)
            start_ns = clock_ns()
            engines[which].run(feed)
            took_ms[which] = (clock_ns() - start_ns) / 1e6
        times_ms.append(took_ms)
    return np.array(times_ms)


def _integer_kernels(candidate: Candidate, feed: Mapping[str, np.ndarray], host: Host) -> int:
    planned = [name for name, each in candidate.plan.items() if each.precision not in FLOATS]
    return len(host.integer_nodes(candidate.model, feed, planned)) if planned else 0


def _compare(
    engines: Sequence[Engine], fp32: int, feeds: Sequence[Mapping[str, np.ndarray]], folder: Path
) -> list[tuple[Difference, ...]]:
    """Run every engine over all feeds beside FP32, which is the one of that number.

    FP32's outputs wait on disk: in memory there would be more with every feed, and large engines,
    of which one is open at a time, cannot take turns at each.
    """
    expected = _stored(engines[fp32], feeds, folder)
    outputs = list(expected[0])
    # For each engine and output: its square, FP32's square, their product, the largest difference.
    sums = np.zeros((len(engines), len(outputs), 4))
    for which, engine in enumerate(engines):
        for feed, wanted in zip(feeds, expected, strict=True):
            found = wanted if which == fp32 else engine.run(feed)
            for number, name in enumerate(outputs):
                ours, theirs = (each[name].ravel().astype(np.float64) for each in (found, wanted))
                sums[which, number, :3] += ours @ ours, theirs @ theirs, ours @ theirs
                largest = np.abs(ours - theirs).max(initial=0.0)
                sums[which, number, 3] = np.maximum(sums[which, number, 3], largest)
    return [
        tuple(
            Difference(output=name, max_abs=float(largest), cosine=_cosine(own, other, product))
            for name, (own, other, product, largest) in zip(outputs, rows, strict=True)
        )
        for rows in sums
    ]


def _stored(
    engine: Engine, feeds: Sequence[Mapping[str, np.ndarray]], folder: Path
) -> list[StoredArrays]:
    try:
        return [
            StoredArrays.write(folder / f"{number:06d}", engine.run(feed))
            for number, feed in enumerate(feeds)
        ]
    except OSError as error:
        raise OutputError(
            f"FP32's outputs for {len(feeds)} feeds must lie on disk to compare with, which "
            f"failed: {error}; free some space in {folder.parent}"
        ) from error


def _cosine(own: float, other: float, product: float) -> float:
    """Cosine from two squares and a product; two vectors of zeros are alike."""
    if own == other == 0:
        return 1.0
    return float(product / np.sqrt(own * other)) if own and other else 0.0
