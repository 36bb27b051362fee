"""Draw masks of what you say on images and videos."""

from __future__ import annotations

import argparse
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from ..errors import PromptError, SourceError, UsageError
from ..live import LivePolicy, LiveReport, run_live
from ..live.console import has_typist, lines_read, signals_handled, stopped_by_signals
from ..live.prompt_board import PromptBoard
from ..masks import Masks
from ..options import add_engine, add_json, add_stream
from ..progress import Progress
from ..prompt import prompts_from
from ..segmenter import Segmenter
from ..shelf import newest_bundle
from ..sinks import JsonLines, MaskPictures, OverlayPicture, OverlayVideo, Sink, distinct_stems
from ..sources import Frame, Source, open_sources
from ..table import table

__all__ = ["add_arguments", "run"]

_OUT = Path("out")
_HEADER = ("source", "phrase", "frames", "found", "score", "area", "ms")
_TIMES_KEPT = 1 << 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `saymask segment`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="image, video, folder of images, quoted glob, camera (0, /dev/video0, csi://0), "
        "rtsp:// or http:// stream, gst:PIPELINE, or test://tabletop",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        required=True,
        metavar="WORDS",
        dest="prompts",
        help='what to segment, as "the red mug left of the lamp"; give it again for more masks',
    )
    parser.add_argument(
        "--prompts-from-stdin",
        action="store_true",
        help="while a stream runs, each line read says what to segment from now on, phrases set "
        "apart by ; (default: when typed)",
    )
    parser.add_argument(
        "--bundle", metavar="REF", help="bundle to use (default: the newest in ./bundles/)"
    )
    parser.add_argument("--template", metavar="NAME", help="wrap the words as the bundle says")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where pictures go (default: {_OUT}, or nowhere with --json, --serve or --record)",
    )
    parser.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write pictures, or an MP4 of a video, with the masks drawn on them",
    )
    parser.add_argument("--masks", action="store_true", help="write each mask as a PNG of its own")
    parser.add_argument(
        "--record", type=Path, metavar="FILE.mcap", help="record a stream and its masks"
    )
    parser.add_argument(
        "--serve", metavar="HOST:PORT", help="show a stream, and take phrases, on a web page"
    )
    parser.add_argument("--token", metavar="WORD", help="what viewers of the page must know")
    add_stream(parser)
    add_json(parser)
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Segment every frame; a source that fails is reported and the next one has its turn."""
    if args.masks and args.json and not args.out:
        raise UsageError("--masks with --json must have --out; got none; say where masks go")
    sources = open_sources(args.source)
    is_one_stream = len(sources) == 1 and sources[0].is_moving
    if (args.serve or args.record) and not is_one_stream:
        raise UsageError(
            "--serve and --record must have one video or camera; "
            f"got {len(sources)} source(s) in {args.source}; leave them out"
        )
    terminated = signals_handled(signal.default_int_handler, signal.SIGTERM)
    with Progress("frames") as progress, terminated:
        rows, exit_code = _run(args, sources, progress)
    if not args.json:
        print(table(_HEADER, rows))
    return exit_code


def _run(
    args: argparse.Namespace, sources: list[Source], progress: Progress
) -> tuple[list[tuple[object, ...]], int]:
    """Segment every source: the rows of the table and the exit code."""
    folder = _folder(args)
    stems = distinct_stems([source.name for source in sources])
    prompts = list(dict.fromkeys(args.prompts))
    rows, exit_code = [], 0
    reference = args.bundle or _newest_bundle(progress)
    with Segmenter.open(
        reference, device=args.device, threads=args.threads, template=args.template
    ) as segmenter:
        segmenter.check_prompts(prompts)
        for source, stem in zip(sources, stems, strict=True):
            tally = _Tally(source, progress)
            sinks = [*_sinks(source, folder and folder / stem, args), tally]
            try:
                if source.is_moving:
                    _stream(segmenter, source, prompts, sinks, args, progress)
                else:
                    _segment(segmenter, source, prompts, sinks)
            except SourceError as error:
                progress.say(f"error: {error}")
                exit_code = error.exit_code
            rows += tally.rows()
    if folder and rows:
        progress.say(f"pictures are in {folder}")
    return rows, exit_code


def _newest_bundle(progress: Progress) -> Path:
    folder = newest_bundle()
    progress.say(f"using {folder}")
    return folder


def _folder(args: argparse.Namespace) -> Path | None:
    """Where pictures go; None when none are wanted."""
    if not (args.overlay or args.masks):
        return None
    return args.out or (None if args.json or args.serve or args.record else _OUT)


def _sinks(source: Source, stem: Path | None, args: argparse.Namespace) -> list[Sink]:
    """Open what the flags ask for; pictures begin with `stem`."""
    sinks: list[Sink] = [JsonLines(sys.stdout)] if args.json else []
    if stem and args.overlay:
        sinks.append(OverlayVideo(stem) if source.is_moving else OverlayPicture(stem))
    if stem and args.masks:
        sinks.append(MaskPictures(stem))
    if args.record:
        from ..sinks.mcap import McapRecording

        sinks.append(McapRecording(args.record))
    return sinks


def _segment(segmenter: Segmenter, source: Source, prompts: list[str], sinks: list[Sink]) -> None:
    """Hand the masks of a still to every sink."""
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        for frame in source.frames():
            masks = segmenter.segment(frame.image_hwc, prompts)
            for sink in sinks:
                sink.write(frame, masks)


def _stream(
    segmenter: Segmenter,
    source: Source,
    prompts: list[str],
    sinks: list[Sink],
    args: argparse.Namespace,
    progress: Progress,
) -> None:
    """Segment a stream until it ends or is interrupted, while prompts may change.

    Raises:
        KeyboardInterrupt: It was interrupted; every output is whole.
    """
    board = PromptBoard(prompts)
    if args.serve:
        from ..page import Page

        page = Page(args.serve, board, token=args.token, check=segmenter.check_prompts)
        sinks = [*sinks, page, _Greeting(lambda: f"the page is at {page.url}", progress)]
    with ExitStack() as stack:
        stop = stack.enter_context(stopped_by_signals())
        if args.prompts_from_stdin or has_typist():
            stack.enter_context(lines_read(lambda line: _post(line, segmenter, board, progress)))
        report = run_live(segmenter, source, board, sinks, _policy(args), stop)
    if source.is_live:
        progress.say(_summary(report))
    if stop.is_set():
        raise KeyboardInterrupt


def _post(line: str, segmenter: Segmenter, board: PromptBoard, progress: Progress) -> None:
    """Post the phrases of a line, or say why not."""
    phrases = [phrase.strip() for phrase in line.split(";") if phrase.strip()] or [line]
    try:
        prompts = prompts_from(list(dict.fromkeys(phrases)))
        segmenter.check_prompts(prompts)
        board.post(prompts)
    except PromptError as error:
        progress.say(f"the prompts stay as they were: {error}")


def _policy(args: argparse.Namespace) -> LivePolicy:
    policy = LivePolicy(every=args.every, latency_budget_ms=args.latency_budget_ms)
    stall_s = args.stall_seconds
    return replace(policy, stall_s=stall_s, source_stall_s=stall_s) if stall_s else policy


def _summary(report: LiveReport) -> str:
    age = report.age_ms
    ages = f", {age.p50:.0f} ms old (p99 {age.p99:.0f})" if age else ""
    return f"{report.frames} frames{ages}, {report.dropped} dropped, in {report.seconds:.1f} s"


class _Greeting(Sink):
    """Says something once the sinks before it are open."""

    def __init__(self, text: Callable[[], str], progress: Progress) -> None:
        self._text = text
        self._progress = progress

    def __enter__(self) -> _Greeting:
        self._progress.say(self._text())
        return self

    def write(self, frame: Frame, masks: Masks) -> None:
        """Say nothing more."""


class _Tally(Sink):
    """Counts the frames of a source and keeps the figures of the table."""

    def __init__(self, source: Source, progress: Progress) -> None:
        self._name = source.name
        self._progress = progress
        self._seen: dict[str, _Seen] = {}

    def write(self, frame: Frame, masks: Masks) -> None:
        total_ms = sum(ms for _, ms in masks.timings_ms)
        for label, score, mask_hw in zip(masks.labels, masks.scores, masks.boolean, strict=True):
            seen = self._seen.setdefault(label, _Seen())
            seen.add(float(score), np.count_nonzero(mask_hw) / mask_hw.size, total_ms)
        self._progress.step()

    def rows(self) -> list[tuple[object, ...]]:
        """Say in how many frames each phrase was found, and means over those."""
        return [(self._name, phrase, *seen.figures()) for phrase, seen in self._seen.items()]


class _Seen:
    """Sums over the frames of one phrase; what a stream of days leaves behind stays small."""

    def __init__(self) -> None:
        self._frames = self._found = 0
        self._score = self._area = 0.0
        self._times_ms: deque[float] = deque(maxlen=_TIMES_KEPT)

    def add(self, score: float, area: float, total_ms: float) -> None:
        """Add a frame: score in [0, 1], part of the frame, milliseconds."""
        self._frames += 1
        self._times_ms.append(total_ms)
        if area:
            self._found += 1
            self._score += score
            self._area += area

    def figures(self) -> tuple[object, ...]:
        """Return frames, found, mean score, mean area and median milliseconds."""
        score = self._score / self._found if self._found else None
        area = f"{self._area / self._found:.1%}" if self._found else None
        return self._frames, self._found, score, area, median(self._times_ms)
