"""Show what a bundle holds, where it comes from and how well it does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from ..bundle import Bundle
from ..options import add_bundle, add_json
from ..shelf import find_bundle
from ..spec import Manifest, TensorSpec
from ..table import table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `saymask info`."""
    add_bundle(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the manifest and the files' sizes, after every file's hash was found right."""
    bundle = Bundle.read(find_bundle(args.bundle))
    sizes_bytes = {name: (bundle.folder / name).stat().st_size for name, _ in bundle.manifest.files}
    if args.json:
        whole = {"folder": str(bundle.folder), **asdict(bundle.manifest)}
        print(json.dumps({**whole, "sizes_bytes": sizes_bytes}, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(_sections(bundle, sizes_bytes)))
    return 0


def _sections(bundle: Bundle, sizes_bytes: dict[str, int]) -> list[str]:
    manifest = bundle.manifest
    return [
        _summary(bundle, sizes_bytes),
        _stages(manifest, sizes_bytes),
        _views(manifest),
        _quality(manifest),
        _latency(manifest),
        _files(manifest, sizes_bytes),
    ]


def _summary(bundle: Bundle, sizes_bytes: dict[str, int]) -> str:
    manifest, source = bundle.manifest, bundle.manifest.source
    facts = {
        "bundle": f"{bundle.folder} ({_mib(sum(sizes_bytes.values()))} MiB)",
        "system": f"{manifest.system} {manifest.variant}, {manifest.precision}",
        "weights": f"{source.name}, licence {source.license}, SHA-256 {source.sha256}",
        "words": f"{manifest.tokenizer.kind}, up to {manifest.tokenizer.max_tokens} tokens",
        "templates": ", ".join(f"{name} {text!r}" for name, text in manifest.templates) or "none",
        "threshold": f"a pixel is in the mask when its logit is above {manifest.mask_threshold:g}",
    }
    return "\n".join(f"{name:<10} {value}" for name, value in facts.items())


def _stages(manifest: Manifest, sizes_bytes: dict[str, int]) -> str:
    rows = [
        (stage.name, stage.precision, _mib(sizes_bytes[stage.file]), stage.reason)
        for stage in manifest.stages
    ]
    lines = [table(("stage", "precision", "MiB", "why"), rows), ""]
    for stage in manifest.stages:
        lines.append(f"{stage.name}: {_tensors(stage.inputs)} -> {_tensors(stage.outputs)}")
    return "\n".join(lines)


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


def _mib(count_bytes: int) -> str:
    return f"{count_bytes / 2**20:.2f}"
