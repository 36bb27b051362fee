"""`saymask export`: a checkpoint in, a bundle out."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ..runtime.errors import UnknownNameError, require
from ..runtime.options import add_json, positive
from ..runtime.progress import Progress
from .flags import GPU_ONLY, add_precision
from .systems import SYSTEMS, system_module

__all__ = ["add_arguments", "run"]

BUNDLES = Path("bundles")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("system", help=", ".join(SYSTEMS))
    parser.add_argument(
        "--checkpoint",
        metavar="REF",
        help="a checkpoint's folder or hub id OWNER/NAME[@REVISION] (the miniature that ships)",
    )
    parser.add_argument(
        "--switch",
        type=_switch,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="preprocess, beit_view or mask_choice of evf-sam, or a field of sam4mllm's protocol, "
        "keep_yes say (those the checkpoint was made for)",
    )
    add_precision(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the bundle (bundles/NAME-PRECISION)"
    )
    parser.add_argument(
        "--samples",
        type=Path,
        metavar="DIR",
        help="pictures and phrases.jsonl to calibrate and judge on (the checkpoint's own)",
    )
    parser.add_argument(
        "--sample-limit", type=positive, default=48, metavar="N", help="most pictures of them (48)"
    )
    parser.add_argument(
        "--max-iou-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="gIoU points that may be lost against FP32 before the export fails (1.0)",
    )
    parser.add_argument(
        "--threads", type=positive, default=os.cpu_count(), metavar="N", help="CPU threads (all)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Export and say what was built."""
    if args.system not in SYSTEMS:
        raise UnknownNameError("system", args.system, SYSTEMS)
    for library in ("torch", "onnx", "onnxscript", "safetensors"):
        require(library, extra="export")
    from ..calibration.observers import Observer
    from .pipeline import export
    from .recipe import ExportRecipe

    target = args.target or ("rtx" if args.precision in GPU_ONLY else "cpu")
    name = Path(args.checkpoint or system_module(args.system).MINIATURE).resolve().name
    forms = (args.precision, args.llm and args.llm.lower(), None if target == "cpu" else target)
    suffix = "-".join(filter(None, forms))
    recipe = ExportRecipe(
        system=args.system,
        out=args.out or BUNDLES / f"{name}-{suffix}",
        checkpoint=args.checkpoint,
        switches=tuple(args.switch),
        precision=args.precision,
        target=target,
        language=args.llm,
        calib=args.calib,
        calib_images=args.calib_images,
        calib_phrases=args.calib_phrases,
        calib_mem_mib=args.calib_mem_mib,
        observer=Observer.parse(args.calib_observer),
        quantizer=args.quantizer,
        modelopt_python=args.modelopt_python,
        drops_slow=args.drop_slow,
        plan=args.plan,
        work=args.work,
        samples=args.samples,
        sample_limit=args.sample_limit,
        max_iou_drop=args.max_iou_drop,
        threads=args.threads,
    )
    with Progress("export") as progress:
        bundle = export(recipe, progress.say)
    manifest = bundle.manifest
    report = {
        "bundle": str(recipe.out),
        "stages": {stage.name: stage.precision for stage in manifest.stages},
        "quality": [
            {"task": row.task, "phrases": row.phrase_count, "fp32": row.fp32, "this": row.this}
            for row in manifest.quality
        ],
        "bytes": sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()),
    }
    if args.json:
        print(json.dumps(report))
    else:
        print(f"wrote {recipe.out}; look at it with: saymask info {recipe.out}")
    return 0


def _switch(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE; got {text!r}")
    return name, value
