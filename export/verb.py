"""`saymask export`: a checkpoint in, a bundle out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.bundle import Bundle
from ..runtime.errors import UnknownNameError, require
from ..runtime.language.tensorrt_llm import commands_by_device
from ..runtime.machine import allowed_cores
from ..runtime.options import add_json, positive
from ..runtime.progress import Progress
from ..runtime.spec import Manifest
from .flags import GPU_ONLY, add_precision, language_of, transforms_of
from .systems import SYSTEMS, system_module

if TYPE_CHECKING:
    from .recipe import ExportRecipe

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
        help="preprocess, beit_view or mask_choice of evf-sam; protocol of sam4mllm (paper, "
        "released, miniature) or a field of it, keep_yes say (those the checkpoint was made for)",
    )
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="image encoder of the checkpoint, or the whole variant, where config.json does not "
        "tell: sam2-l or sam-h-beit3-large, say; an error where that or the weights say another",
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
        "--threads", type=positive, default=allowed_cores(), metavar="N", help="CPU threads (all)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Export and say what was built."""
    if args.system not in SYSTEMS:
        raise UnknownNameError("system", args.system, SYSTEMS)
    for library in ("torch", "onnx", "onnxscript", "safetensors"):
        require(library, extra="export")
    from .pipeline import export

    recipe = _recipe(args)
    with Progress("export") as progress:
        bundle = export(recipe, progress.say)
    commands = _device_commands(bundle.manifest, recipe.out)
    if args.json:
        print(json.dumps({**_report(bundle, recipe.out), "device_commands": commands}))
        return 0
    print(f"wrote {recipe.out}; look at it with: saymask info {recipe.out}")
    for stage, ways in commands.items():
        for device, lines in ways.items():
            print(f"{stage} on {device}: {' && '.join(lines)}")
    return 0


def _recipe(args: argparse.Namespace) -> ExportRecipe:
    from ..calibration.observers import Observer
    from .recipe import ExportRecipe

    language, folder = language_of(args)
    target = args.target or ("rtx" if folder or args.precision in GPU_ONLY else "cpu")
    name = Path(args.checkpoint or system_module(args.system).MINIATURE).resolve().name
    held = f"tensorrt-llm-{folder}" if folder else language and language.lower()
    suffix = "-".join(filter(None, (args.precision, held, None if target == "cpu" else target)))
    return ExportRecipe(
        system=args.system,
        out=args.out or BUNDLES / f"{name}-{suffix}",
        checkpoint=args.checkpoint,
        variant=args.variant,
        switches=tuple(args.switch),
        precision=args.precision,
        target=target,
        language=language,
        tensorrt_llm=folder,
        calib=args.calib,
        calib_images=args.calib_images,
        calib_phrases=args.calib_phrases,
        calib_mem_mib=args.calib_mem_mib,
        observer=Observer.parse(args.calib_observer),
        quantizer=args.quantizer,
        modelopt_python=args.modelopt_python,
        transforms=transforms_of(args),
        weight_bits=args.weight_bits,
        drops_slow=args.drop_slow,
        plan=args.plan,
        work=args.work,
        samples=args.samples,
        sample_limit=args.sample_limit,
        max_iou_drop=args.max_iou_drop,
        threads=args.threads,
    )


def _report(bundle: Bundle, out: Path) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "bundle": str(out),
        "stages": {stage.name: stage.precision for stage in manifest.stages},
        "quality": [
            {"task": row.task, "phrases": row.phrase_count, "fp32": row.fp32, "this": row.this}
            for row in manifest.quality
        ],
        "bytes": sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()),
    }


def _device_commands(manifest: Manifest, out: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Say how what saymask does not run is started, by stage and device."""
    return {
        stage.name: commands_by_device(out / stage.file, precision=stage.precision)
        for stage in manifest.stages
        if stage.is_folder
    }


def _switch(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE; got {text!r}")
    return name, value
