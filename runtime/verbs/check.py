"""Replay a bundle's golden inputs on this machine and compare with the stored FP32 outputs.

A language model's folder for TensorRT-LLM is looked through instead.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..bundle import Bundle
from ..language.quantized_folder import check_quantized_folder
from ..options import add_bundle, add_engine, add_json
from ..replay import Comparison, replay
from ..shelf import find_bundle
from ..spec import StageSpec
from ..table import table

__all__ = ["add_arguments", "run"]

_HEADER = ("stage", "output", "precision", "max abs", "relative", "cosine", "mask IoU", "verdict")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `saymask check`."""
    add_bundle(parser)
    add_json(parser)
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row for each output, and one for a folder that is not run but looked through.

    Returns:
        1 when an output differs beyond its precision's tolerance, or something doesn't fit.
    """
    bundle = Bundle.read(find_bundle(args.bundle))
    comparisons = list(replay(bundle, device=args.device, threads=args.threads))
    misfits = {
        stage: check_quantized_folder(bundle.folder / stage.file)
        for stage in bundle.manifest.stages
        if stage.is_folder
    }
    is_good = all(each.is_within for each in comparisons) and not any(misfits.values())
    if args.json:
        rows = [_record(comparison) for comparison in comparisons]
        folders = {stage.name: found for stage, found in misfits.items()}
        whole = {"is_good": is_good, "outputs": rows, "misfits": folders}
        print(json.dumps({"bundle": str(bundle.folder), **whole}, indent=2, allow_nan=False))
    else:
        rows = [*map(_row, comparisons), *(_folder_row(*pair) for pair in misfits.items())]
        said = [f"{stage.name}: {misfit}" for stage, found in misfits.items() for misfit in found]
        print("\n".join([table(_HEADER, rows), *said]))
    return 0 if is_good else 1


def _folder_row(stage: StageSpec, misfits: Sequence[str]) -> tuple[object, ...]:
    verdict = f"{len(misfits)} things do not fit" if misfits else "good"
    return (stage.name, "folder", stage.precision, None, None, None, None, verdict)


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
