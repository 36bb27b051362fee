"""`saymask eval`: score bundles against the truth, from their engines."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...runtime.errors import UnknownNameError
from ...runtime.options import add_engine, add_json, positive
from ...runtime.progress import Progress
from ...runtime.segmenter import Segmenter
from ...runtime.shelf import find_bundle
from ...runtime.table import table
from ..evaluate import TASKS, Evaluation, WorldRecipe, evaluate, figures
from ..world.catalogue import SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folders or names of bundles")
    parser.add_argument(
        "--data", default="world:test", metavar="NAME", help="world:train, world:val or world:test"
    )
    parser.add_argument(
        "--phrases", type=positive, default=2000, metavar="N",
        help="least phrases of the first task (2000)",
    )  # fmt: skip
    parser.add_argument("--tasks", default=",".join(TASKS), metavar="A,B", help=", ".join(TASKS))
    parser.add_argument(
        "--wrong-words", action="store_true", help="ask another scene's phrases: the blind baseline"
    )
    add_engine(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Score and print."""
    recipe = _recipe(args)
    folders = [find_bundle(reference) for reference in args.bundles]
    with ExitStack() as stack, Progress("frames") as progress:
        segmenters = [
            stack.enter_context(Segmenter.open(folder, device=args.device, threads=args.threads))
            for folder in folders
        ]
        found = evaluate(segmenters, recipe, on_frame=progress.step)
    reports = [_report(folder, each, args) for folder, each in zip(folders, found, strict=True)]
    print(json.dumps(reports) if args.json else _tables(reports))
    return 0


def _recipe(args: argparse.Namespace) -> WorldRecipe:
    name, _, split = args.data.partition(":")
    if name != "world" or split not in SPLITS:
        raise UnknownNameError("--data", args.data, [f"world:{split}" for split in SPLITS])
    tasks = tuple(dict.fromkeys(args.tasks.split(",")))
    for task in tasks:
        if task not in TASKS:
            raise UnknownNameError("each of --tasks", task, TASKS)
    return WorldRecipe(
        split=split, phrases=args.phrases, tasks=tasks, has_wrong_words=args.wrong_words
    )


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
