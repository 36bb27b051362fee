"""`saymask eval`: score bundles against the truth, from their engines."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2

from ...runtime.errors import UnknownNameError, UsageError
from ...runtime.options import add_engine, add_json, positive
from ...runtime.progress import Progress
from ...runtime.segmenter import Segmenter
from ...runtime.shelf import find_bundle
from ...runtime.table import table
from ..evaluate import TASKS, Evaluation, WorldRecipe, evaluate, figures
from ..evaluate_video import VideoRecipe, evaluate_video, video_figures
from ..world.catalogue import SPLITS

PHRASES = 2000
EVERY = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folders or names of bundles")
    parser.add_argument(
        "--data", default="world:test", metavar="NAME", help="world:train, world:val or world:test"
    )
    stills = parser.add_argument_group("stills")
    stills.add_argument(
        "--phrases", type=positive, metavar="N", help=f"least phrases of the first task ({PHRASES})"
    )
    stills.add_argument("--tasks", metavar="A,B", help=", ".join(TASKS))
    stills.add_argument(
        "--wrong-words", action="store_true", help="ask another scene's phrases: the blind baseline"
    )
    clips = parser.add_argument_group("clips, in place of stills")
    clips.add_argument("--clips", type=positive, metavar="N", help="follow things through N clips")
    clips.add_argument(
        "--every", type=positive, metavar="K",
        help=f"segment each K-th frame, track the others ({EVERY})",
    )  # fmt: skip
    add_engine(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Score and print."""
    _check_together(args)
    split, tasks = _split(args.data), _tasks(args.tasks)
    folders = [find_bundle(reference) for reference in args.bundles]
    with ExitStack() as stack, Progress("frames") as progress:
        segmenters = [
            stack.enter_context(Segmenter.open(folder, device=args.device, threads=args.threads))
            for folder in folders
        ]
        if args.clips:
            reports = [_clip_report(each, split, args, progress) for each in segmenters]
        else:
            recipe = WorldRecipe(
                split=split,
                phrases=args.phrases or PHRASES,
                tasks=tasks,
                has_wrong_words=args.wrong_words,
            )
            found = evaluate(segmenters, recipe, on_frame=progress.step)
            reports = [_report(*pair, args) for pair in zip(folders, found, strict=True)]
    lay_out = _clip_table if args.clips else _tables
    print(json.dumps(reports) if args.json else lay_out(reports))
    return 0


def _check_together(args: argparse.Namespace) -> None:
    if args.clips and (args.phrases or args.tasks or args.wrong_words):
        raise UsageError(
            "--clips ask their own phrases; got one of --phrases, --tasks and --wrong-words too; "
            "leave it out"
        )
    if args.every and not args.clips:
        raise UsageError(f"--every is for clips; got --every {args.every} alone; add --clips N")


def _split(data: str) -> str:
    name, _, split = data.partition(":")
    if name != "world" or split not in SPLITS:
        raise UnknownNameError("--data", data, [f"world:{split}" for split in SPLITS])
    return split


def _tasks(listed: str | None) -> tuple[str, ...]:
    tasks = TASKS if listed is None else tuple(dict.fromkeys(listed.split(",")))
    for task in tasks:
        if task not in TASKS:
            raise UnknownNameError("each of --tasks", task, TASKS)
    return tasks


def _clip_report(
    segmenter: Segmenter, split: str, args: argparse.Namespace, progress: Progress
) -> dict[str, Any]:
    if args.threads:
        cv2.setNumThreads(args.threads)
    recipe = VideoRecipe(split=split, clips=args.clips, every=args.every or EVERY)
    found = evaluate_video(segmenter, recipe, on_frame=progress.step)
    return {
        "bundle": segmenter.bundle.folder.name,
        "data": args.data,
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


def _report(folder: Path, found: Evaluation, args: argparse.Namespace) -> dict[str, Any]:
    size_bytes = sum(path.stat().st_size for path in folder.glob("stages/*"))
    return {
        "bundle": folder.resolve().name,
        "data": args.data,
        "has_wrong_words": args.wrong_words,
        "frames": found.frames,
        "frame_ms": found.frame_ms,
        "stages_bytes": size_bytes,
        "tasks": {task: figures(score) for task, score in sorted(found.scores.items())},
    }


def _tables(reports: list[dict[str, Any]]) -> str:
    """Lay out a row for each bundle and task, then one for each bundle."""
    names = list(next(iter(reports[0]["tasks"].values())))
    rows = [
        [report["bundle"], task, *(_cell(values[name]) for name in names)]
        for task in reports[0]["tasks"]
        for report in reports
        for values in [report["tasks"][task]]
    ]
    totals = [
        [report["bundle"], f"{report['frame_ms']:.1f}", f"{report['stages_bytes'] / 2**20:.1f}"]
        for report in reports
    ]
    quality = table(["bundle", "task", *names], rows)
    cost = table(["bundle", "ms a frame", "stages MiB"], totals)
    return f"{quality}\n\n{cost}"


def _cell(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"
