"""Flags that several verbs share, so that they are spelled and explained alike."""

from __future__ import annotations

import argparse
import math

__all__ = ["add_bundle", "add_engine", "add_json", "add_stream", "amount", "positive"]


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add BUNDLE, the one bundle that the verb is about."""
    parser.add_argument(
        "bundle", metavar="BUNDLE", help="folder of a bundle, or its name in ./ or ./bundles/"
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add --device and --threads."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="D",
        help="auto, cpu, cuda or cuda:N; only auto may fall back to the CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="threads of the CPU (default: one a core)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_stream(parser: argparse.ArgumentParser) -> None:
    """Add --every, --latency-budget-ms and --stall-seconds; see `live_policy.LivePolicy`."""
    parser.add_argument(
        "--every",
        type=positive,
        default=1,
        metavar="N",
        help="segment every N-th frame and track the masks between (default: %(default)s)",
    )
    parser.add_argument(
        "--latency-budget-ms",
        type=amount,
        metavar="MS",
        help="oldest that a camera's frame should be when its masks are written; older ones are "
        "skipped, and keyframes put off (default: no limit)",
    )
    parser.add_argument(
        "--stall-seconds",
        type=amount,
        metavar="S",
        help="end a stream whose source, engines or outputs hang for longer (default: 30, and 330 "
        "for the source)",
    )


def amount(text: str) -> float:
    """Read a number above 0, for `type=`."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0; got {text!r}")
    return number


def positive(text: str) -> int:
    """Read a whole number from 1, for `type=`."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1; got {text!r}")
    return number
