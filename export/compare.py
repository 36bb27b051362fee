"""`saymask compare`: bundles beside FP32, by their masks or layer by layer."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..runtime.bundle import Bundle
from ..runtime.errors import BundleError, require
from ..runtime.options import add_json, positive
from ..runtime.progress import Progress
from ..runtime.shelf import find_bundle
from ..runtime.spec import StageSpec

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("fp32", metavar="FP32", help="folder or name of a bundle in FP32")
    parser.add_argument(
        "bundles", nargs="+", metavar="BUNDLE", help="others of the same checkpoint"
    )
    parser.add_argument(
        "--samples",
        type=Path,
        metavar="DIR",
        help="pictures and phrases.jsonl to hold masks against (the miniature's own)",
    )
    parser.add_argument(
        "--sample-limit", type=positive, default=48, metavar="N", help="most pictures of them (48)"
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="compare every layer on the golden inputs instead of the masks",
    )
    parser.add_argument(
        "--polygraphy",
        action="store_true",
        help="compare every layer, and let NVIDIA Polygraphy do it, as a second opinion",
    )
    parser.add_argument(
        "--floor",
        type=float,
        default=0.99,
        metavar="COSINE",
        help="least cosine of a layer that agrees (0.99)",
    )
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="threads of the CPU (1)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print; that bundles differ is no failure."""
    for library in ("onnx", "onnxruntime"):
        require(library, extra="export")
    if args.polygraphy:
        require("polygraphy", extra="polygraphy")
    fp32 = Bundle.read(find_bundle(args.fp32))
    others = {name: Bundle.read(find_bundle(name)) for name in args.bundles}
    for name, other in others.items():
        _check_pair(args.fp32, fp32, name, other)
    with Progress("compare") as progress:
        compare = _layers if args.layers or args.polygraphy else _masks
        report, lines = compare(fp32, others, args, progress)
    print(json.dumps(report, allow_nan=False) if args.json else "\n".join(lines))
    return 0


def _check_pair(reference: str, fp32: Bundle, name: str, other: Bundle) -> None:
    if _small(fp32):
        raise BundleError(
            f"the first bundle must be in FP32; {reference} is {fp32.manifest.precision}; name the "
            "one that saymask export writes without a precision"
        )
    if not _small(other):
        raise BundleError(
            f"a bundle that is compared must have small numbers; {name} is in FP32 too; export one "
            "with --int8 or --fp8"
        )
    if other.manifest.source.sha256 != fp32.manifest.source.sha256:
        raise BundleError(
            f"{name} must be of the checkpoint of {reference}, {fp32.manifest.source.name!r} with "
            f"SHA-256 {fp32.manifest.source.sha256}; it is of {other.manifest.source.name!r} with "
            f"{other.manifest.source.sha256}; export both from one"
        )


def _small(bundle: Bundle) -> tuple[StageSpec, ...]:
    """Return the stages whose graphs have small numbers."""
    stages = bundle.manifest.stages
    return tuple(stage for stage in stages if stage.is_graph and stage.precision != "fp32")


def _masks(
    fp32: Bundle, others: Mapping[str, Bundle], args: argparse.Namespace, progress: Progress
) -> tuple[dict[str, Any], Sequence[str]]:
    """Hold masks, outputs and sizes of the others against FP32's."""
    from ..calibration.comparison import best_quantizer, compare_quantizers, table
    from ..calibration.gate import Judge, score_samples, with_runs
    from ..calibration.recording import Recorder
    from ..calibration.samples import read_samples
    from ..calibration.storage import read
    from ..runtime.engine import open_engine
    from ..runtime.systems import open_system
    from .checkpoint import MINIATURES
    from .pipeline import SAMPLES_FOLDER

    own = MINIATURES / fp32.manifest.source.name / SAMPLES_FOLDER
    samples = read_samples(args.samples or own, limit=args.sample_limit)
    with (
        TemporaryDirectory() as folder,
        closing(open_system(fp32, device="cpu", threads=args.threads)) as system,
    ):
        recorder = Recorder(Path(folder))
        progress.say(f"run {len(samples)} pictures in FP32")
        scores, masks = score_samples(system.with_engines(recorder.watch), samples)
        judge = Judge(
            system=with_runs(
                system,
                recorder.runs,
                lambda stage: open_engine(fp32, stage.name, device="cpu", threads=args.threads),
            ),
            samples=samples,
            scores=scores,
            masks=masks,
            threads=args.threads,
        )
        rivals = {
            name: {
                stage.name: read(bundle.folder / stage.file)
                for stage in _small(bundle)
                if stage.name in recorder.runs
            }
            for name, bundle in others.items()
        }
        progress.say(f"judge {len(rivals)} bundles")
        rows = compare_quantizers(rivals, recorder.runs, judge, threads=args.threads)
    report = {"rows": [asdict(row) for row in rows], "nearest": best_quantizer(rows)}
    return report, table(rows)


def _layers(
    fp32: Bundle, others: Mapping[str, Bundle], args: argparse.Namespace, progress: Progress
) -> tuple[dict[str, Any], Sequence[str]]:
    """Hold every tensor that the others' graphs share with FP32's against it."""
    from ..calibration.layerwise import compare_layers
    from ..calibration.storage import read
    from .polygraphy_layers import compare_with_polygraphy

    golden = fp32.golden()
    report: dict[str, Any] = {}
    lines = []
    for name, bundle in others.items():
        for stage in _small(bundle):
            progress.say(f"run the layers of {name}, {stage.name}")
            graphs = (
                read(fp32.folder / fp32.stage(stage.name).file),
                read(bundle.folder / stage.file),
            )
            feed = {each.name: golden[f"{stage.name}/{each.name}"] for each in stage.inputs}
            found = (
                compare_with_polygraphy(*graphs, feed, floor=args.floor)
                if args.polygraphy
                else compare_layers(*graphs, [feed], floor=args.floor, threads=args.threads)
            )
            report.setdefault(name, {})[stage.name] = {
                "layers": [_record(asdict(row)) for row in found.rows],
                "first_departure": found.first_departure and found.first_departure.node,
                "first_fault": found.first_fault and found.first_fault.node,
            }
            lines += ["", f"{name}, stage {stage.name}", *found.lines()]
    return report, lines[1:]


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a layer in JSON, which knows null but no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
