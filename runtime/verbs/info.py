"""Show what a bundle holds, where it comes from and how well it does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from ..bundle import Bundle
from ..engine_cache import EngineReport, LayerCount, graph_sha256, read_reports
from ..errors import BundleError
from ..language.quantized_folder import ALGORITHMS
from ..options import add_bundle, add_json
from ..shelf import find_bundle
from ..spec import PLAN_FILE, PLAN_VERSION, REPORT_FILE, Manifest, StageSpec, TensorSpec
from ..table import table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `saymask info`."""
    add_bundle(parser)
    parser.add_argument(
        "--plan",
        action="store_true",
        help="show what each node of its graphs computes in, and why, instead",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the manifest and the files' sizes, after every file's hash was found right."""
    bundle = Bundle.read(find_bundle(args.bundle))
    if args.plan:
        plan = _plan(bundle)
        print(json.dumps(plan, indent=2, ensure_ascii=False) if args.json else _nodes(plan))
        return 0
    sizes_bytes = {name: (bundle.folder / name).stat().st_size for name, _ in bundle.manifest.files}
    reports = tuple(report for _, report in read_reports(bundle.folder))
    if args.json:
        whole = {
            "folder": str(bundle.folder),
            **asdict(bundle.manifest),
            "sizes_bytes": sizes_bytes,
            "report": _report(bundle),
            "engines": [
                {**asdict(report), "is_stale": _is_stale(bundle, report)} for report in reports
            ],
        }
        print(json.dumps(whole, indent=2, ensure_ascii=False))
    else:
        sections = [*_sections(bundle, sizes_bytes), _engines(bundle, reports)]
        print("\n\n".join(sections))
    return 0


def _plan(bundle: Bundle) -> dict[str, Any]:
    """Read the bundle's plan, whose hash was found right."""
    listed = [name for name, _ in bundle.manifest.files]
    plan = json.loads((bundle.folder / PLAN_FILE).read_text("utf-8")) if PLAN_FILE in listed else {}
    if plan.get("plan_version") != PLAN_VERSION:
        raise BundleError(
            f"{bundle.folder} must hold {PLAN_FILE} with plan_version {PLAN_VERSION}, which this "
            f"saymask shows; got {plan.get('plan_version', 'none')}; export it again"
        )
    return plan


def _nodes(plan: Mapping[str, Any]) -> str:
    rows = [
        (name, node, entry["precision"], entry["reason"])
        for name, stage in plan["stages"].items()
        for node, entry in stage["nodes"].items()
    ]
    if not rows:
        return "plan: every node computes in FP32"
    head = f"plan of {plan['system']} {plan['variant']} for {plan['target']}"
    return f"{head}\n\n{table(('stage', 'node', 'precision', 'why'), rows)}"


def _report(bundle: Bundle) -> dict[str, Any] | None:
    """Read what the gate found, whose hash was found right; None where nothing was quantized."""
    listed = [name for name, _ in bundle.manifest.files]
    if REPORT_FILE not in listed:
        return None
    return json.loads((bundle.folder / REPORT_FILE).read_text("utf-8"))


def _gate(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return "gate: nothing was quantized"
    loss = report["loss"]
    rows = [
        (
            stage["stage"],
            stage["precision"],
            f"{stage['cosine']:.5f}",
            None if stage["speedup"] is None else f"{stage['speedup']:.2f}",
            f"{stage['size_ratio']:.2f}",
            ", ".join(map(_share, stage["shares"])) or "not executed here",
        )
        for stage in report["stages"]
    ]
    header = ("stage", "precision", "cosine", "fp32 / this ms", "this / fp32 bytes", "executed")
    points = round(loss["lost"], 2) + 0.0  # Adding 0 makes -0.0 of a tiny gain 0.0.
    lost = (
        f"gate: {points:.2f} points of gIoU lost of {report['budget']:g} allowed; masks "
        f"{loss['apart']:.2f} points of IoU apart from FP32's"
    )
    return f"{lost}\n{table(header, rows)}" if rows else lost


def _share(share: Mapping[str, Any]) -> str:
    return f"{100 * share['share']:.1f} % in {share['precision']} ({share['nodes']} nodes)"


def _sections(bundle: Bundle, sizes_bytes: dict[str, int]) -> list[str]:
    manifest = bundle.manifest
    return [
        _summary(bundle, sizes_bytes),
        *([table(("setting", "value"), manifest.settings)] if manifest.settings else []),
        _stages(manifest, sizes_bytes),
        _views(manifest),
        _quality(manifest),
        _latency(manifest),
        _gate(_report(bundle)),
        _files(manifest, sizes_bytes),
    ]


def _summary(bundle: Bundle, sizes_bytes: dict[str, int]) -> str:
    manifest, source = bundle.manifest, bundle.manifest.source
    for_target = f"for {manifest.target}"
    facts = {
        "bundle": f"{bundle.folder} ({_mib(sum(sizes_bytes.values()))} MiB)",
        "system": f"{manifest.system} {manifest.variant}, {manifest.precision} {for_target}",
        "weights": f"{source.name}, licence {source.license}, SHA-256 {source.sha256}",
        "words": _words(manifest),
        "templates": ", ".join(f"{name} {text!r}" for name, text in manifest.templates) or "none",
        "threshold": f"a pixel is in the mask when its logit is above {manifest.mask_threshold:g}",
    }
    return "\n".join(f"{name:<10} {value}" for name, value in facts.items())


def _words(manifest: Manifest) -> str:
    if manifest.tokenizer is None:
        return "the language model's own vocabulary"
    return f"{manifest.tokenizer.kind}, up to {manifest.tokenizer.max_tokens} tokens"


def _stages(manifest: Manifest, sizes_bytes: dict[str, int]) -> str:
    rows = [
        (stage.name, stage.precision, _mib(_size_bytes(stage, sizes_bytes)), stage.reason)
        for stage in manifest.stages
    ]
    lines = [table(("stage", "precision", "MiB", "why"), rows), ""]
    lines += [f"{stage.name}: {_way(stage)}" for stage in manifest.stages]
    return "\n".join(lines)


def _size_bytes(stage: StageSpec, sizes_bytes: Mapping[str, int]) -> int:
    """Return the size of a stage's file, or of all files in its folder."""
    return sum(
        size for name, size in sizes_bytes.items() if PurePosixPath(name).is_relative_to(stage.file)
    )


def _way(stage: StageSpec) -> str:
    if stage.is_graph:
        return f"{_tensors(stage.inputs)} -> {_tensors(stage.outputs)}"
    if stage.is_folder:
        algorithm = ALGORITHMS.get(stage.precision, stage.precision)
        return f"{algorithm} for TensorRT-LLM and TensorRT Edge-LLM, which saymask does not run"
    return "words and vectors -> words"


def _tensors(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(
        f"{tensor.name} {tensor.dtype}({', '.join(map(str, tensor.shape))})" for tensor in tensors
    )


def _views(manifest: Manifest) -> str:
    rows = [
        (
            view.name,
            "x".join(map(str, view.size_hw)),
            view.fit,
            f"{view.interpolation}{', antialiased' if view.is_antialiased else ''}",
        )
        for view in manifest.views
    ]
    return table(("view", "height x width", "fit", "interpolation"), rows)


def _quality(manifest: Manifest) -> str:
    if not manifest.quality:
        return "quality: not measured"
    rows = [
        (
            row.task,
            row.metric,
            row.data,
            row.phrase_count,
            f"{row.fp32:.4f}",
            f"{row.this:.4f}",
            f"{row.this - row.fp32:+.4f}",
        )
        for row in manifest.quality
    ]
    return table(("task", "metric", "data", "phrases", "fp32", "this", "difference"), rows)


def _latency(manifest: Manifest) -> str:
    if not manifest.latency:
        return "latency: not compared at export; run: saymask bench"
    rows = [
        (row.stage, row.precision, f"{row.median_ms:.2f}", "taken" if row.is_taken else "")
        for row in manifest.latency
    ]
    header = ("stage", "candidate", "median ms", "")
    return f"{table(header, rows)}\nside by side on {manifest.machine}"


def _files(manifest: Manifest, sizes_bytes: dict[str, int]) -> str:
    rows = [(name, _mib(sizes_bytes[name]), sha256) for name, sha256 in manifest.files]
    return table(("file", "MiB", "SHA-256"), rows)


def _engines(bundle: Bundle, reports: Sequence[EngineReport]) -> str:
    if not reports:
        return f"engines: none; compile them with: saymask build {bundle.folder} --target rtx"
    parts = []
    for report in reports:
        key, sm = report.key, ", ".join(map(str, report.key.sm))
        parts.append(
            f"engine {report.stage} of {key.library} {key.version} for sm {sm}, CUDA {key.cuda}, "
            f"{key.os}: {_mib(report.engine_bytes)} MiB, {report.precision} was asked for"
            + ("; stale: build it again" if _is_stale(bundle, report) else "")
        )
        sides = (("asked", report.asked), ("built", report.built))
        rows = [row for name, counts in sides for row in _layers(name, counts)]
        parts.append(table(("", "precision", "layers"), rows))
        if report.shares:
            shares = ", ".join(_share(asdict(each)) for each in report.shares)
            parts.append(f"multiply-adds as built: {shares}")
    return "\n".join(parts)


def _layers(side: str, counts: Sequence[LayerCount]) -> list[tuple[str, str, str]]:
    """Sum up one side, a row for each precision."""
    found: dict[str, list[str]] = {}
    for row in counts:
        found.setdefault(row.precision, []).append(f"{row.count} {row.kind}")
    return [(side, precision, ", ".join(found[precision])) for precision in sorted(found)]


def _is_stale(bundle: Bundle, report: EngineReport) -> bool:
    graphs = {stage.name: bundle.folder / stage.file for stage in bundle.manifest.stages}
    graph = graphs.get(report.stage)
    return graph is None or graph_sha256(graph) != report.graph_sha256


def _mib(count_bytes: int) -> str:
    return f"{count_bytes / 2**20:.2f}"
