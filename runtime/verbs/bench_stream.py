"""The half of `saymask bench` that times a bundle on a stream, in an open loop."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from ..bench.closed_loop import END_TO_END, Workload, interleave, spread_of
from ..bench.conditions import machine_conditions
from ..bench.energy import Meter, open_meters
from ..bench.pace import Paced
from ..bench.stream import FRAME_BYTES, StreamRecorder, StreamWindow
from ..bench.stream_figures import figures_of, series_of
from ..bench.stream_report import (
    StreamReport,
    markdown_from_report,
    svg_from_report,
    text_from_report,
)
from ..bundle import Bundle
from ..errors import OutputError, SaymaskError, UsageError
from ..live import LivePolicy, run_live
from ..live.prompt_board import PromptBoard
from ..options import amount
from ..progress import Progress
from ..segmenter import Segmenter
from ..shelf import find_bundle
from ..sources import open_sources
from ..sources.frame import Source
from ..systems import HOST_LAPS

__all__ = ["add_stream_flags", "check_flags", "run_stream"]

_RATE_HZ = 30.0
_SECONDS = 60.0
_WARM_UP_S = 5.0
_IDLE_S = 3.0
_ALONE, _ALONE_WARM_UP = 20, 5
_INTERRUPTED = 130
_STREAM_FLAGS = ("fps", "seconds", "warm_up", "markdown", "plot")
_OTHER_FLAGS = ("compare", "source", "iterations", "points")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What is to be measured."""

    source: Source
    """Where frames come from."""
    rate_hz: float | None
    """Frames a second; None for the source's own."""
    phrases: tuple[str, ...]
    """What to segment."""
    window: StreamWindow
    """What counts."""


def add_stream_flags(parser: argparse.ArgumentParser) -> None:
    """Add --stream and what goes with it."""
    group = parser.add_argument_group("on a stream, in place of rounds")
    group.add_argument(
        "--stream",
        metavar="SOURCE",
        help="camera, address, test://tabletop, or files played as a camera would; frames come "
        "whether or not the engines keep up",
    )
    group.add_argument(
        "--fps",
        type=amount,
        metavar="N",
        help=f"frames a second (default: {_RATE_HZ:g} for files, a live source's own)",
    )
    group.add_argument(
        "--seconds", type=amount, metavar="N", help=f"how long it counts (default: {_SECONDS:g})"
    )
    group.add_argument(
        "--warm-up",
        type=amount,
        metavar="N",
        help=f"seconds before that don't count (default: {_WARM_UP_S:g})",
    )
    group.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables as Markdown, too"
    )
    group.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw ages and memory over time"
    )


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that don't go together.

    Raises:
        UsageError: Flags of rounds with --stream, its own without it, or a plot that is no SVG.
    """
    for name in _OTHER_FLAGS if args.stream else _STREAM_FLAGS:
        if getattr(args, name) not in (None, [], False):
            flag = f"--{name.replace('_', '-')}"
            way = f"{flag} must stand without" if args.stream else f"{flag} must come with"
            raise UsageError(f"{way} --stream; got {flag} {_shown(getattr(args, name))}")
    if args.plot and args.plot.suffix != ".svg":
        raise UsageError(f"--plot must name a .svg file; got {args.plot}")


def run_stream(args: argparse.Namespace) -> int:
    """Run a bundle on a stream and print what came of it, also when it is interrupted."""
    bundle = Bundle.read(find_bundle(args.bundle))
    run = _run_of(args, bundle)
    with (
        Segmenter.open(bundle.folder, device=args.device, threads=args.threads) as segmenter,
        open_meters() as meters,
    ):
        idle_w = _idle_w(meters)
        laps_alone = _laps_alone(segmenter, run)
        engine_stages = (*laps_alone, *(stage.name for stage in bundle.manifest.stages))
        conditions = machine_conditions(segmenter.device, args.threads) | _conditions(bundle, run)
        recorder, is_interrupted = _record(segmenter, run, meters, engine_stages)
    record = recorder.record()
    figures = figures_of(
        record,
        engine_stages=engine_stages,
        meters=[meter.name for meter in meters],
        idle_w=idle_w,
    )
    if figures is None:
        raise KeyboardInterrupt if is_interrupted else _too_short(run)
    conditions |= {"frame_hw": recorder.frame_hw, "is_interrupted": is_interrupted}
    report = StreamReport(
        conditions=conditions,
        figures=figures,
        engine_alone=spread_of([sum(ms) for ms in zip(*laps_alone.values(), strict=True)]),
        series=series_of(record),
    )
    print(json.dumps(asdict(report), indent=2) if args.json else text_from_report(report))
    _write_files(report, args.markdown, args.plot)
    return _INTERRUPTED if is_interrupted else 0


def _too_short(run: _Run) -> SaymaskError:
    return SaymaskError(
        f"a stream must last longer than its warm-up of {run.window.warm_up_s:g} s; "
        f"{run.source.name} ended before; make --warm-up shorter"
    )


def _run_of(args: argparse.Namespace, bundle: Bundle) -> _Run:
    source, rate_hz = _source(args.stream, args.fps)
    phrases = bundle.golden()["phrases"].tolist()
    return _Run(
        source=source,
        rate_hz=rate_hz,
        phrases=tuple(islice(cycle(phrases), args.phrases)),
        window=StreamWindow(
            warm_up_s=args.warm_up or _WARM_UP_S,
            seconds=args.seconds or _SECONDS,
            rate_hz=rate_hz,
        ),
    )


def _source(reference: str, rate_hz: float | None) -> tuple[Source, float | None]:
    """Open a live source, its rate asked for in its address, or play files at a rate."""
    if rate_hz and "://" in reference:
        reference += f"{'&' if '?' in reference else '?'}fps={rate_hz:g}"
    sources = open_sources(reference)
    if not sources[0].is_live:
        rate_hz = rate_hz or _RATE_HZ
        return Paced(sources, rate_hz), rate_hz
    if rate_hz and "://" not in reference:
        raise UsageError(
            f"--fps must go with files or an address; got {rate_hz:g} with {reference}; "
            "name a camera as v4l2:///dev/video0, and write a pipeline's rate into it"
        )
    return sources[0], rate_hz


def _record(
    segmenter: Segmenter, run: _Run, meters: Sequence[Meter], engine_stages: Sequence[str]
) -> tuple[StreamRecorder, bool]:
    """Run the stream: what was recorded, and whether the user put an end to it."""
    with Progress("frames") as progress:
        recorder = StreamRecorder(
            run.window, engine_stages=engine_stages, meters=meters, step=progress.step
        )
        board = PromptBoard(run.phrases)
        try:
            run_live(segmenter, run.source, board, [recorder], LivePolicy(), recorder.stop)
        except KeyboardInterrupt:
            return recorder, True
        return recorder, False


def _idle_w(meters: Sequence[Meter]) -> list[float]:
    """Measure the mean power while nothing runs; takes time only where there are meters."""
    before = [meter.joules() for meter in meters]
    if meters:
        time.sleep(_IDLE_S)
    return [(meter.joules() - was) / _IDLE_S for meter, was in zip(meters, before, strict=True)]


def _laps_alone(segmenter: Segmenter, run: _Run) -> dict[str, list[float]]:
    """Time the engines on the golden frame, one after the other and nothing beside them."""
    workload = Workload(
        frames=(segmenter.bundle.golden()["frame"],),
        phrases=run.phrases,
        device=segmenter.device,
        threads=None,
        iterations=_ALONE,
        warm_up=_ALONE_WARM_UP,
    )
    (laps,) = interleave([segmenter], workload, step=lambda: None)
    return {lap: ms for lap, ms in laps.items() if lap not in (*HOST_LAPS, END_TO_END)}


def _conditions(bundle: Bundle, run: _Run) -> dict[str, Any]:
    return {
        "bundle": bundle.folder.name,
        "precision": bundle.manifest.precision,
        "stream": run.source.name,
        "fps": run.rate_hz,
        "phrases": len(run.phrases),
        "warm_up_s": run.window.warm_up_s,
        "seconds": run.window.seconds,
        "recorded_bytes_per_frame": FRAME_BYTES,
    }


def _write_files(report: StreamReport, markdown: Path | None, plot: Path | None) -> None:
    if plot:
        _write(plot, svg_from_report(report))
    if markdown:
        picture = plot and Path(os.path.relpath(plot, markdown.parent)).as_posix()
        _write(markdown, markdown_from_report(report, picture))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} must be written, which failed: {error}; check the folder's rights"
        ) from error


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
