"""Draw the tabletop world: stills with phrases and masks, clips, or data sets in known formats."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from ...runtime.errors import UnknownNameError, UsageError
from ...runtime.options import add_json, positive
from ...runtime.progress import Progress
from ..world.album import write_clip, write_stills
from ..world.catalogue import SPLITS
from ..world.expression import TASKS
from ..world.formats import FORMATS, require_vacant, write_dataset

__all__ = ["add_arguments", "run"]

_LEAST_SIDE_PX, _MOST_SIDE_PX = 32, 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `stills`, `clip` and `write` with their flags."""
    actions = parser.add_subparsers(dest="action", metavar="WHAT", required=True)
    stills = actions.add_parser("stills", help="pictures with phrases and masks")
    stills.add_argument("--tasks", default="single", metavar="A,B", help=", ".join(TASKS))
    stills.add_argument("--sheet", action="store_true", help="also a page to look at, sheet.png")
    stills.set_defaults(act=_stills)
    clip = actions.add_parser("clip", help="a video (H.264) with the truth of every frame")
    clip.add_argument("--seconds", type=float, default=4.0, metavar="S", help="length (4)")
    clip.add_argument("--fps", type=positive, default=15, metavar="N", help="frames a second (15)")
    clip.set_defaults(act=_clip)
    write = actions.add_parser("write", help="a data set as the papers' loaders read it")
    write.add_argument("--format", required=True, metavar="NAME", help=", ".join(FORMATS))
    write.set_defaults(act=_write)
    for action in (stills, write):
        action.add_argument("--count", type=positive, default=16, metavar="N", help="pictures (16)")
        action.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    clip.add_argument("--out", type=Path, required=True, metavar="FILE", help="clip.mp4")
    for action in (stills, clip, write):
        action.add_argument("--split", default="test", metavar="NAME", help=", ".join(SPLITS))
        action.add_argument("--size", default="640x480", metavar="WxH", help="pixels (640x480)")
        action.add_argument("--seed", type=int, default=0, metavar="N", help="first scene (0)")
        add_json(action)


def run(args: argparse.Namespace) -> int:
    """Do what was asked and say what was written."""
    if args.split not in SPLITS:
        raise UnknownNameError("--split", args.split, SPLITS)
    if args.seed < 0:
        raise UsageError(f"--seed must be at least 0, got {args.seed}")
    report = args.act(args, _size_hw(args.size))
    if args.json:
        print(json.dumps(report))
    else:
        print(", ".join(f"{name} {value}" for name, value in report.items()))
    return 0


def _stills(args: argparse.Namespace, size_hw: tuple[int, int]) -> dict[str, object]:
    tasks = tuple(args.tasks.split(","))
    for task in tasks:
        if task not in TASKS:
            raise UnknownNameError("--tasks", task, TASKS)
    require_vacant(args.out)
    with Progress("pictures", args.count) as progress:
        phrases = write_stills(
            args.out,
            split=args.split,
            count=args.count,
            size_hw=size_hw,
            seed=args.seed,
            tasks=tasks,
            has_sheet=args.sheet,
            on_page=progress.step,
        )
    return {"out": str(args.out), "pictures": args.count, "phrases": phrases}


def _clip(args: argparse.Namespace, size_hw: tuple[int, int]) -> dict[str, object]:
    frame_count = round(args.seconds * args.fps)
    with Progress("frames", frame_count) as progress:
        truth = write_clip(
            args.out,
            split=args.split,
            seed=args.seed,
            size_hw=size_hw,
            frame_count=frame_count,
            rate_hz=args.fps,
            on_frame=progress.step,
        )
    return {"out": str(args.out), "truth": str(truth), "frames": frame_count}


def _write(args: argparse.Namespace, size_hw: tuple[int, int]) -> dict[str, object]:
    with Progress("pictures", args.count) as progress:
        records = write_dataset(
            args.format,
            args.out,
            args.split,
            args.count,
            size_hw,
            args.seed,
            on_page=progress.step,
        )
    return {
        "out": str(args.out),
        "format": args.format,
        "pictures": args.count,
        "records": records,
    }


def _size_hw(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    width, height = (int(side) for side in match.groups()) if match else (0, 0)
    if not all(_LEAST_SIDE_PX <= side <= _MOST_SIDE_PX for side in (width, height)):
        raise UsageError(
            f"--size must be WIDTHxHEIGHT, each {_LEAST_SIDE_PX} to {_MOST_SIDE_PX} pixels, "
            f"as 640x480; got {text!r}"
        )
    return height, width
