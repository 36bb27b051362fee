"""The part of `saymask bench` that times what a system asks its language model about points."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..bench.closed_loop import Workload
from ..bench.conditions import machine_conditions, machine_text
from ..bench.questions import time_questions
from ..bundle import Bundle
from ..errors import UsageError
from ..progress import Progress
from ..segmenter import Segmenter
from ..table import table

__all__ = ["add_points_flag", "run_points"]

_ROUNDS = 5
_HEADER = (
    "points", "asked", "p50 ms", "times one batch", "95 %", "asking alone p50 ms",
    "times one batch", "95 %", "probability off by", "answers",
)  # fmt: skip


def add_points_flag(parser: argparse.ArgumentParser) -> None:
    """Add --points."""
    parser.add_argument(
        "--points",
        action="store_true",
        help="time what it asks its language model about the points of a box instead: in one "
        f"batch, one by one, and each as a whole text (default: {_ROUNDS} rounds)",
    )


def run_points(bundle: Bundle, workload: Workload, args: argparse.Namespace) -> int:
    """Print a row for each way and number of points.

    Raises:
        UsageError: Other bundles are to be compared, or the system asks nothing of this kind.
    """
    if args.compare:
        raise UsageError(f"--points must stand without --compare; got {args.compare}")
    with Segmenter.open(
        bundle.folder, device=workload.device, threads=workload.threads
    ) as segmenter:
        shared = segmenter.shared_questions(workload.frames[0], workload.phrases[0])
        if shared is None:
            raise UsageError(
                "--points needs a system that asks a language model about points; "
                f"{bundle.manifest.system} as it is set up does not; leave it out"
            )
        counts = sorted({1, 5, len(shared.questions) // 2, len(shared.questions)} - {0})
        counts = [count for count in counts if count <= len(shared.questions)]
        rounds = args.iterations or _ROUNDS
        with Progress("rounds", len(counts) * (rounds + 1)) as progress:
            times = time_questions(shared, counts, rounds, step=progress.step)
        report = {
            "conditions": machine_conditions(shared.engine.device, workload.threads),
            "beginning_tokens": sum(map(len, shared.beginning)),
            "question_tokens": max(map(len, shared.questions)),
            "points": [asdict(each) for each in times],
        }
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 0


def _text(report: Mapping[str, Any]) -> str:
    rows = [
        (
            row["count"],
            row["way"],
            row["spread"]["p50_ms"],
            *_ratio(row["times_batch"]),
            row["asking"]["p50_ms"],
            *_ratio(row["asking_times_batch"]),
            f"{row['max_difference']:.1e}",
            "same" if row["is_same"] else "differ",
        )
        for row in report["points"]
    ]
    conditions = report["conditions"]
    return (
        f"{machine_text(conditions)}\n"
        f"{conditions['device']}, threads {conditions['threads'] or 'one a core'}, "
        f"{report['beginning_tokens']} tokens before up to {report['question_tokens']} for each "
        f"point\n\n{table(_HEADER, rows)}"
    )


def _ratio(ratio: Mapping[str, float]) -> tuple[float, str]:
    return ratio["value"], f"{ratio['low']:.2f} to {ratio['high']:.2f}"
