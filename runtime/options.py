"""Flags that several verbs share, so that they are spelled and explained alike."""

from __future__ import annotations

import argparse

__all__ = ["add_bundle", "add_engine", "add_json", "positive"]


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


def positive(text: str) -> int:
    """Read a whole number from 1, for `type=`."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1; got {text!r}")
    return number
