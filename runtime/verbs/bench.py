"""Time bundles on this machine: alone, beside others or rivals, or on a stream."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain, cycle, islice
from statistics import median
from typing import Any

from ..bench.closed_loop import END_TO_END, Workload, interleave, ratio_of_medians, spread_of
from ..bench.coldstart import ColdStart, cold_start
from ..bench.conditions import machine_conditions, machine_text
from ..bench.rivals import rival_names
from ..bundle import Bundle
from ..options import add_bundle, add_engine, add_json, positive
from ..progress import Progress
from ..segmenter import Segmenter
from ..shelf import find_bundle
from ..sources import open_sources
from ..table import table
from .bench_compare import add_rival_flags, check_rivals, compare, comparison_text
from .bench_points import add_points_flag, run_points
from .bench_stream import add_stream_flags, check_flags, run_stream

__all__ = ["add_arguments", "run"]

_COLD_STARTS = 5
_ITERATIONS, _WARM_UP = 100, 10
_MOST_FRAMES = 32
_START_HEADER = ("bundle", "asked", "MiB", "peak MiB", "cold start ms", "load ms", "first mask ms")
_STAGE_HEADER = ("bundle", "stage", "p50 ms", "p90 ms", "p99 ms", "quartile range ms")
_QUALITY_HEADER = ("bundle", "task", "metric", "fp32", "this")
_SPREAD = ("p50_ms", "p90_ms", "p99_ms", "quartile_range_ms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `saymask bench`."""
    add_bundle(parser)
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="OTHER",
        type=_names,
        help="bundles to run in turns with it, in one process and in a random order, or rivals: "
        f"other ways to run its checkpoint, such as {', '.join(rival_names())}; commas part them",
    )
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help=f"image, folder or video, up to {_MOST_FRAMES} frames (default: the golden frame)",
    )
    parser.add_argument(
        "--phrases", type=positive, default=1, metavar="N", help="phrases a frame (default: 1)"
    )
    parser.add_argument(
        "--iterations",
        type=positive,
        metavar="N",
        help=f"rounds that count, after {_WARM_UP} that don't (default: {_ITERATIONS})",
    )
    add_points_flag(parser)
    add_rival_flags(parser)
    add_stream_flags(parser)
    add_json(parser)
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Time what was asked for and print the figures."""
    args.compare = list(chain.from_iterable(args.compare))
    check_flags(args)
    if args.stream:
        return run_stream(args)
    if args.points:
        bundle = Bundle.read(find_bundle(args.bundle))
        return run_points(bundle, _workload(bundle, args), args)
    return _run_rivals(args) if check_rivals(args) else _run_rounds(args)


def _run_rivals(args: argparse.Namespace) -> int:
    """Time frames in this process, the bundle beside other ways to run its checkpoint."""
    bundle = Bundle.read(find_bundle(args.bundle))
    workload = _workload(bundle, args)
    compared = compare(bundle, workload, args)
    report = {"conditions": _conditions(workload, "cpu"), **compared}
    text = f"{_conditions_text(report['conditions'])}\n\n{comparison_text(report)}"
    print(json.dumps(report, indent=2) if args.json else text)
    return 0


def _run_rounds(args: argparse.Namespace) -> int:
    """Time frames in this process, then cold starts in fresh ones."""
    bundles = [Bundle.read(find_bundle(name)) for name in (args.bundle, *args.compare)]
    workload = _workload(bundles[0], args)
    rounds = _COLD_STARTS + _WARM_UP + workload.iterations
    with Progress("rounds", rounds) as progress:
        samples, device = _run_warm(bundles, workload, progress)
        starts = _start_cold(bundles, workload, progress)
    report = {
        "conditions": _conditions(workload, device),
        "bundles": [_figures(*each) for each in zip(bundles, starts, samples, strict=True)],
        "ratios": _ratios(bundles, samples),
    }
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 0


def _names(text: str) -> list[str]:
    """Read names with commas between them, for `type=`."""
    return [name for name in text.split(",") if name]


def _workload(bundle: Bundle, args: argparse.Namespace) -> Workload:
    golden = bundle.golden()
    frames = [golden["frame"]]
    if args.source:
        found = chain.from_iterable(source.frames() for source in open_sources(args.source))
        frames = [frame.image_hwc for frame in islice(found, _MOST_FRAMES)]
    return Workload(
        frames=tuple(frames),
        phrases=tuple(islice(cycle(golden["phrases"].tolist()), args.phrases)),
        device=args.device,
        threads=args.threads,
        iterations=args.iterations or _ITERATIONS,
        warm_up=_WARM_UP,
    )


def _run_warm(
    bundles: Sequence[Bundle], workload: Workload, progress: Progress
) -> tuple[list[dict[str, list[float]]], str]:
    """Time the bundles in turns: their samples, and the device they ran on."""
    with ExitStack() as stack:
        segmenters = [
            stack.enter_context(
                Segmenter.open(bundle.folder, device=workload.device, threads=workload.threads)
            )
            for bundle in bundles
        ]
        return interleave(segmenters, workload, step=progress.step), segmenters[0].device


def _start_cold(
    bundles: Sequence[Bundle], workload: Workload, progress: Progress
) -> list[list[ColdStart]]:
    starts: list[list[ColdStart]] = [[] for _ in bundles]
    for _ in range(_COLD_STARTS):
        for bundle, those in zip(bundles, starts, strict=True):
            those.append(cold_start(bundle.folder, workload))
        progress.step()
    return starts


def _conditions(workload: Workload, device: str) -> dict[str, Any]:
    return {
        **machine_conditions(device, workload.threads),
        "frames": len(workload.frames),
        "frame_hw": workload.frames[0].shape[:2],
        "phrases": len(workload.phrases),
        "iterations": workload.iterations,
        "warm_up": workload.warm_up,
    }


def _figures(
    bundle: Bundle, starts: Sequence[ColdStart], samples: dict[str, list[float]]
) -> dict[str, Any]:
    manifest = bundle.manifest
    peaks = [start.peak_bytes for start in starts if start.peak_bytes]
    return {
        "bundle": bundle.folder.name,
        "precision": manifest.precision,
        "size_bytes": sum((bundle.folder / name).stat().st_size for name, _ in manifest.files),
        "peak_bytes": max(peaks, default=None),
        "cold_start_ms": [start.total_ms for start in starts],
        "load_ms": [start.load_ms for start in starts],
        "first_mask_ms": [start.first_mask_ms for start in starts],
        "stages": {stage: asdict(spread_of(ms)) for stage, ms in samples.items()},
        "quality": [asdict(row) for row in manifest.quality],
    }


def _ratios(
    bundles: Sequence[Bundle], samples: Sequence[dict[str, list[float]]]
) -> list[dict[str, Any]]:
    """Compare every other bundle with the first."""
    names = [bundle.folder.name for bundle in bundles]
    totals = [stages[END_TO_END] for stages in samples]
    return [
        {"bundle": names[0], "other": name, **asdict(ratio_of_medians(total, totals[0]))}
        for name, total in zip(names[1:], totals[1:], strict=True)
    ]


def _text(report: dict[str, Any]) -> str:
    figures = report["bundles"]
    starts = [
        (row["bundle"], row["precision"], _mib(row["size_bytes"]), _mib(row["peak_bytes"]))
        + tuple(_median_of(row[key]) for key in ("cold_start_ms", "load_ms", "first_mask_ms"))
        for row in figures
    ]
    stages = [
        (row["bundle"], stage, *(spread[key] for key in _SPREAD))
        for row in figures
        for stage, spread in row["stages"].items()
    ]
    quality = [
        (row["bundle"], q["task"], q["metric"], f"{q['fp32']:.4f}", f"{q['this']:.4f}")
        for row in figures
        for q in row["quality"]
    ]
    parts = [_conditions_text(report["conditions"]), table(_START_HEADER, starts)]
    parts.append(table(_STAGE_HEADER, stages))
    if quality:
        parts.append(table(_QUALITY_HEADER, quality))
    parts += [
        f"{ratio['other']} takes {ratio['value']:.3f} times as long as {ratio['bundle']} "
        f"(medians, 95 % interval {ratio['low']:.3f} to {ratio['high']:.3f})"
        for ratio in report["ratios"]
    ]
    return "\n\n".join(parts)


def _conditions_text(conditions: dict[str, Any]) -> str:
    height, width = conditions["frame_hw"]
    return (
        f"{machine_text(conditions)}\n"
        f"{conditions['device']}, threads {conditions['threads'] or 'one a core'}, "
        f"{conditions['frames']} frame(s) of {width}x{height}, {conditions['phrases']} phrase(s), "
        f"{conditions['iterations']} rounds after {conditions['warm_up']}"
    )


def _median_of(values: Sequence[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def _mib(count_bytes: int | None) -> float | None:
    return count_bytes and count_bytes / 2**20
