"""`saymask build`: a bundle's engines for one kind of device."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ..runtime.bundle import Bundle
from ..runtime.engine_cache import ENGINES, TARGETS
from ..runtime.errors import require
from ..runtime.options import add_bundle, add_json, positive
from ..runtime.progress import Progress
from ..runtime.shelf import find_bundle
from ..runtime.table import table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_bundle(parser)
    parser.add_argument(
        "--target",
        required=True,
        choices=TARGETS,
        help="rtx compiles for RTX cards, also where there is none; tensorrt for the GPU here",
    )
    parser.add_argument(
        "--fp16",
        action="store_true",
        help="FP16 wherever it is safe (as bundles of --fp16 have it)",
    )
    parser.add_argument(
        "--device-sm",
        type=positive,
        metavar="SM",
        help="compute capability times ten, such as 89 (rtx: all that it knows from 80)",
    )
    parser.add_argument(
        "--phrases", type=positive, default=8, metavar="N", help="most phrases of one run (8)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compile and say what was built."""
    require("onnx", extra="export")
    from .compile import CompileRecipe, compile_bundle

    bundle = Bundle.read(find_bundle(args.bundle))
    recipe = CompileRecipe(
        target=args.target,
        precision="fp16" if args.fp16 or bundle.manifest.precision == "fp16" else "fp32",
        device_sm=args.device_sm,
        phrases=args.phrases,
    )
    with Progress("steps of the compiler") as progress:
        reports = compile_bundle(bundle, recipe, progress.say, progress.step)
    folder = bundle.folder / ENGINES / reports[0].key.folder
    if args.json:
        engines = [asdict(report) for report in reports]
        print(json.dumps({"folder": str(folder), "engines": engines}, indent=2))
        return 0
    rows = [
        (
            report.stage,
            report.precision,
            f"{report.engine_bytes / 2**20:.2f}",
            f"{report.seconds:.1f}",
            report.peak_memory_bytes and report.peak_memory_bytes >> 20,
        )
        for report in reports
    ]
    print(table(("stage", "precision", "MiB", "seconds", "peak MiB"), rows))
    print(f"wrote {folder}; look at the layers with: saymask info {args.bundle}")
    return 0
