"""Replay a bundle's golden inputs on this machine and compare with the stored FP32 outputs."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import Any

from ..bundle import Bundle
from ..options import add_bundle, add_engine, add_json
from ..replay import Comparison, replay
from ..shelf import find_bundle
from ..table import table

__all__ = ["add_arguments", "run"]

_HEADER = ("stage", "output", "precision", "max abs", "relative", "cosine", "mask IoU", "verdict")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `saymask check`."""
    add_bundle(parser)
    add_json(parser)
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row for each output; 1 when one differs beyond its precision's tolerance."""
    bundle = Bundle.read(find_bundle(args.bundle))
    comparisons = list(replay(bundle, device=args.device, threads=args.threads))
    is_good = all(comparison.is_within for comparison in comparisons)
    if args.json:
        rows = [_record(comparison) for comparison in comparisons]
        whole = {"bundle": str(bundle.folder), "is_good": is_good, "outputs": rows}
        print(json.dumps(whole, indent=2, allow_nan=False))
    else:
        print(table(_HEADER, [_row(comparison) for comparison in comparisons]))
    return 0 if is_good else 1


def _record(comparison: Comparison) -> dict[str, Any]:
    """Describe a comparison in JSON, which knows null but no infinity."""
    record = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(comparison).items()
    }
    return {**record, "is_within": comparison.is_within}


def _row(comparison: Comparison) -> tuple[object, ...]:
    tolerance = comparison.tolerance
    needed = f"needs relative <= {tolerance.relative:g}, IoU >= {tolerance.mask_iou:g}"
    return (
        comparison.stage,
        comparison.output,
        comparison.precision,
        f"{comparison.max_abs:.2e}",
        f"{comparison.relative:.2e}",
        f"{comparison.cosine:.5f}",
        None if comparison.mask_iou is None else f"{comparison.mask_iou:.4f}",
        "good" if comparison.is_within else f"differs: {needed}",
    )
