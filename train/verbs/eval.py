"""`saymask eval`: score bundles against the truth, from their engines."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from ...calibration.simulation import simulate
from ...runtime.bundle import Bundle
from ...runtime.errors import UnknownNameError, UsageError
from ...runtime.options import add_engine, add_json, positive
from ...runtime.progress import Progress
from ...runtime.segmenter import Segmenter
from ...runtime.shelf import find_bundle
from ...runtime.table import table
from ..contenders import Contender, contender, settings_from_text
from ..evaluate import (
    MASK_TASKS,
    TASKS,
    WORDS,
    WorldRecipe,
    evaluate,
    evaluate_words,
    figures,
    word_figures,
)
from ..evaluate_video import VideoRecipe, evaluate_video, video_figures
from ..intervals import Interval, compare, compare_words
from ..world.catalogue import SPLITS

PHRASES = 2000
EVERY = 5
ALL_TASKS = (*MASK_TASKS, WORDS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folders or names of bundles")
    parser.add_argument(
        "--data", default="world:test", metavar="NAME", help="world:train, world:val or world:test"
    )
    stills = parser.add_argument_group("stills")
    stills.add_argument(
        "--phrases", type=positive, metavar="N",
        help=f"least phrases of the first task, and of {WORDS} ({PHRASES})",
    )  # fmt: skip
    stills.add_argument("--tasks", metavar="A,B", help=", ".join(ALL_TASKS))
    stills.add_argument(
        "--wrong-words", action="store_true", help="ask another scene's phrases: the blind baseline"
    )
    stills.add_argument(
        "--intervals", action="store_true",
        help="how far each bundle is ahead of the first, with 95 %% intervals over the phrases",
    )  # fmt: skip
    clips = parser.add_argument_group("clips, in place of stills")
    clips.add_argument("--clips", type=positive, metavar="N", help="follow things through N clips")
    clips.add_argument(
        "--every", type=positive, metavar="K",
        help=f"segment each K-th frame, track the others ({EVERY})",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", metavar="A=B,C=D",
        help="score each bundle under these settings of its protocol; again for another contender",
    )  # fmt: skip
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="round on a CPU as TensorRT would, for bundles that only TensorRT runs",
    )
    add_engine(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Score and print."""
    _check_together(args)
    split, tasks = _split(args.data), _tasks(args)
    folders = [find_bundle(reference) for reference in args.bundles]
    with ExitStack() as stack, Progress("frames") as progress:
        contenders = [
            contender(_bundle(folder, args, stack), settings_from_text(settings))
            for folder in folders
            for settings in args.set or [""]
        ]
        segmenters = [
            stack.enter_context(each.open(device=args.device, threads=args.threads))
            for each in contenders
        ]
        if args.clips:
            reports = [
                _clip_report(*pair, split, args, progress)
                for pair in zip(contenders, segmenters, strict=True)
            ]
        else:
            recipe = WorldRecipe(
                split=split,
                phrases=args.phrases or PHRASES,
                tasks=tuple(task for task in tasks if task != WORDS),
                has_wrong_words=args.wrong_words,
            )
            reports = [_report(each, args) for each in contenders]
            if WORDS in tasks:
                _add_words(reports, segmenters, recipe, args, progress)
            if recipe.tasks:
                _add_masks(reports, segmenters, recipe, args, progress)
    lay_out = _clip_table if args.clips else _tables
    print(json.dumps(reports) if args.json else lay_out(reports))
    return 0


def _bundle(folder: Path, args: argparse.Namespace, stack: ExitStack) -> Bundle:
    """Read a bundle; one that is simulated lies in a folder of its own meanwhile."""
    bundle = Bundle.read(folder)
    if not args.simulate:
        return bundle
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return simulate(bundle, scratch / folder.resolve().name)


def _check_together(args: argparse.Namespace) -> None:
    if args.clips and (args.phrases or args.tasks or args.wrong_words or args.intervals):
        raise UsageError(
            "--clips ask their own phrases; got one of --phrases, --tasks, --wrong-words and "
            "--intervals too; leave it out"
        )
    if args.every and not args.clips:
        raise UsageError(f"--every is for clips; got --every {args.every} alone; add --clips N")


def _split(data: str) -> str:
    name, _, split = data.partition(":")
    if name != "world" or split not in SPLITS:
        raise UnknownNameError("--data", data, [f"world:{split}" for split in SPLITS])
    return split


def _tasks(args: argparse.Namespace) -> tuple[str, ...]:
    tasks = TASKS if args.tasks is None else tuple(dict.fromkeys(args.tasks.split(",")))
    for task in tasks:
        if task not in ALL_TASKS:
            raise UnknownNameError("each of --tasks", task, ALL_TASKS)
    if args.wrong_words and WORDS in tasks:
        raise UsageError(
            f"--wrong-words asks for masks; got {WORDS} among --tasks; leave one of them out"
        )
    return tasks


def _clip_report(
    contender: Contender, segmenter: Segmenter, split: str, args: argparse.Namespace,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    if args.threads:
        cv2.setNumThreads(args.threads)
    recipe = VideoRecipe(split=split, clips=args.clips, every=args.every or EVERY)
    found = evaluate_video(segmenter, recipe, on_frame=progress.step)
    return {
        "bundle": contender.name,
        "data": args.data,
        "is_simulated": args.simulate,
        "clips": recipe.clips,
        "ways": video_figures(found),
    }


def _clip_table(reports: list[dict[str, Any]]) -> str:
    """Lay out a row for each bundle and way."""
    names = list(next(iter(reports[0]["ways"].values())))
    rows = [
        [report["bundle"], way, *(_cell(values[name]) for name in names)]
        for report in reports
        for way, values in report["ways"].items()
    ]
    return table(["bundle", "way", *names], rows)


def _report(contender: Contender, args: argparse.Namespace) -> dict[str, Any]:
    """Say what is scored; its tasks are still to come."""
    stages = contender.bundle.folder.glob("stages/*")
    size_bytes = sum(path.stat().st_size for path in stages)
    return {
        "bundle": contender.name,
        "data": args.data,
        "has_wrong_words": args.wrong_words,
        "is_simulated": args.simulate,
        "stages_bytes": size_bytes,
        "tasks": {},
    }


def _add_words(
    reports: list[dict[str, Any]], segmenters: list[Segmenter], recipe: WorldRecipe,
    args: argparse.Namespace, progress: Progress,
) -> None:  # fmt: skip
    """Ask what words answer and put into each report how often they are right."""
    found = [evaluate_words(each.answer, recipe, on_frame=progress.step) for each in segmenters]
    for report, answers in zip(reports, found, strict=True):
        report["tasks"] |= {task: word_figures(each) for task, each in sorted(answers.items())}
    if args.intervals:
        _add_intervals(reports, found, compare_words)


def _add_masks(
    reports: list[dict[str, Any]], segmenters: list[Segmenter], recipe: WorldRecipe,
    args: argparse.Namespace, progress: Progress,
) -> None:  # fmt: skip
    """Ask for masks and put into each report how well they fit."""
    found = evaluate(segmenters, recipe, on_frame=progress.step)
    for report, each in zip(reports, found, strict=True):
        report |= {"frames": each.frames, "frame_ms": each.frame_ms}
        report["tasks"] |= {task: figures(score) for task, score in sorted(each.scores.items())}
    if args.intervals:
        _add_intervals(reports, [each.samples for each in found], compare)


def _add_intervals(
    reports: list[dict[str, Any]],
    found: Sequence[Mapping[str, Sequence[Any]]],
    intervals: Callable[[Any, Any], dict[str, Interval]],
) -> None:
    """Put into each report how far it is ahead of the first."""
    for report, samples in zip(reports[1:], found[1:], strict=True):
        report["ahead_of"] = reports[0]["bundle"]
        ahead = report.setdefault("ahead", {})
        for task, each in sorted(samples.items()):
            ahead[task] = {
                metric: asdict(interval) | {"is_sure": interval.is_sure}
                for metric, interval in intervals(found[0][task], each).items()
            }


def _tables(reports: list[dict[str, Any]]) -> str:
    """Lay out a row for each bundle and task, then one for each bundle."""
    names = list(dict.fromkeys(name for row in reports[0]["tasks"].values() for name in row))
    rows = [
        [report["bundle"], task, *(_cell(values.get(name)) for name in names)]
        for task in reports[0]["tasks"]
        for report in reports
        for values in [report["tasks"][task]]
    ]
    totals = [
        [
            report["bundle"],
            f"{report['frame_ms']:.1f}" if "frame_ms" in report else "-",
            f"{report['stages_bytes'] / 2**20:.1f}",
        ]
        for report in reports
    ]
    quality = table(["bundle", "task", *names], rows)
    cost = table(["bundle", "ms a frame", "stages MiB"], totals)
    return "\n\n".join(filter(None, (quality, _interval_table(reports), cost)))


def _interval_table(reports: list[dict[str, Any]]) -> str:
    """Lay out a row for each bundle, task and metric; nothing where no intervals were asked for."""
    rows = [
        [report["bundle"], task, metric]
        + [f"{interval[name]:+.2f}" for name in ("difference", "low", "high")]
        for report in reports
        for task, metrics in report.get("ahead", {}).items()
        for metric, interval in metrics.items()
    ]
    header = ["ahead of the first", "task", "metric", "points", "from", "to"]
    return table(header, rows) if rows else ""


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
