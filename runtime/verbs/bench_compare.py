"""The half of `saymask bench` that times a bundle beside other ways to run its checkpoint."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..bench.closed_loop import END_TO_END, Workload, interleave, ratio_of_medians, spread_of
from ..bench.rivals import Ceiling, RivalRequest, measure_ceiling, open_rival, rival_names
from ..bundle import Bundle
from ..errors import UsageError
from ..progress import Progress
from ..segmenter import Segmenter
from ..shelf import find_bundle
from ..table import table

__all__ = ["OURS", "add_rival_flags", "check_rivals", "compare", "comparison_text"]

OURS = "ours"
"""What the bundle itself is called among its rivals."""
_REFERENCE = "eager"
"""The rival whose masks the others' are held against: PyTorch in FP32."""
_HEADER = ("runs as", "stage", "p50 ms", "p90 ms", "times ours", "95 %", "GOP/s", "of INT8", "IoU")
_CEILING_HEADER = ("stage", "GOP", "INT8 GOP/s", "FP32 GOP/s")
_Samples = Mapping[str, Sequence[float]]


def add_rival_flags(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint and --work."""
    group = parser.add_argument_group("with rivals in --compare")
    group.add_argument(
        "--checkpoint",
        metavar="REF",
        help="folder, file or hub id of what BUNDLE was exported from (default: the miniature)",
    )
    group.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="keep rivals' graphs there (default: make them anew)",
    )


def check_rivals(args: argparse.Namespace) -> bool:
    """Say whether rivals are among what BUNDLE is compared with.

    Raises:
        UsageError: There are none, but flags for them, or they cannot run on that device.
    """
    has_rivals = bool({OURS, *rival_names()}.intersection(args.compare))
    for flag in ("checkpoint", "work"):
        if getattr(args, flag) and not has_rivals:
            raise UsageError(
                f"--{flag} must come with rivals in --compare, of {', '.join(rival_names())}; "
                f"got --{flag} {getattr(args, flag)}"
            )
    if has_rivals and args.device not in ("auto", "cpu"):
        raise UsageError(f"rivals run on the CPU; got --device {args.device}; leave it out")
    return has_rivals


def compare(bundle: Bundle, workload: Workload, args: argparse.Namespace) -> dict[str, Any]:
    """Time the bundle and its rivals in turns and hold their masks against FP32's.

    Args:
        bundle: What they are rivals of.
        workload: What all have to do, on the CPU.
        args: With `compare`, `checkpoint` and `work`.

    Returns:
        "rivals", "ratios" and "ceiling", for JSON.
    """
    names = list(dict.fromkeys((OURS, *args.compare)))
    with _work(args.work) as work, ExitStack() as stack:
        request = RivalRequest(checkpoint=args.checkpoint, work=work, workload=workload)
        with Progress("rounds", workload.warm_up + workload.iterations) as progress:
            segmenters = {name: stack.enter_context(_open(name, bundle, request)) for name in names}
            reference = _reference(segmenters, bundle, request)
            ious = [_mean_iou(each, reference, workload) for each in segmenters.values()]
            samples = interleave(list(segmenters.values()), workload, step=progress.step)
        ceiling = measure_ceiling(bundle, request)
    return {
        "rivals": [
            _figures(name, own, iou, ceiling)
            for name, own, iou in zip(names, samples, ious, strict=True)
        ],
        "ratios": [
            {"rival": name, "stage": stage, **asdict(ratio_of_medians(ms, samples[0][stage]))}
            for name, own in zip(names, samples, strict=True)
            for stage, ms in own.items()
        ],
        "ceiling": asdict(ceiling),
    }


@contextmanager
def _work(folder: Path | None) -> Iterator[Path]:
    if folder:
        yield folder
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)


def _open(name: str, bundle: Bundle, request: RivalRequest) -> Segmenter:
    """Open the bundle, a rival, or another bundle."""
    if name in rival_names():
        return open_rival(name, bundle, request)
    folder = bundle.folder if name == OURS else find_bundle(name)
    return Segmenter.open(folder, device="cpu", threads=request.workload.threads)


def _reference(
    segmenters: Mapping[str, Segmenter], bundle: Bundle, request: RivalRequest
) -> list[np.ndarray]:
    """Return the FP32 masks (phrases, H, W) bool of every frame."""
    if _REFERENCE in segmenters:
        return _masks(segmenters[_REFERENCE], request.workload)
    with open_rival(_REFERENCE, bundle, request) as segmenter:
        return _masks(segmenter, request.workload)


def _masks(segmenter: Segmenter, workload: Workload) -> list[np.ndarray]:
    return [segmenter.segment(each, workload.phrases).boolean for each in workload.frames]


def _mean_iou(segmenter: Segmenter, reference: Sequence[np.ndarray], workload: Workload) -> float:
    """Return the mean over all masks; two masks without a pixel agree."""
    ious = []
    for found, wanted in zip(_masks(segmenter, workload), reference, strict=True):
        both, either = (found & wanted).sum(axis=(1, 2)), (found | wanted).sum(axis=(1, 2))
        ious += np.where(either == 0, 1.0, both / np.maximum(either, 1)).tolist()
    return float(np.mean(ious))


def _figures(name: str, samples: _Samples, iou: float, ceiling: Ceiling) -> dict[str, Any]:
    counted = {each.stage: each for each in ceiling.stages}
    stages: dict[str, Any] = {}
    for stage, ms in samples.items():
        stages[stage] = asdict(spread_of(ms))
        if stage in counted:
            gops = counted[stage].operations / stages[stage]["p50_ms"] / 1e6
            stages[stage] |= {
                "gops": gops,
                "of_int8": gops / counted[stage].int8_gops,
                "of_fp32": gops / counted[stage].fp32_gops,
            }
    return {"rival": name, "mean_iou": iou, "stages": stages}


def comparison_text(report: Mapping[str, Any]) -> str:
    """Set what `compare` returns as tables."""
    ratios = {(each["rival"], each["stage"]): each for each in report["ratios"]}
    rows = []
    for rival in report["rivals"]:
        for stage, spread in rival["stages"].items():
            ratio = ratios[rival["rival"], stage]
            rows.append((
                rival["rival"],
                stage,
                spread["p50_ms"],
                spread["p90_ms"],
                f"{ratio['value']:.3f}",
                f"{ratio['low']:.3f} to {ratio['high']:.3f}",
                spread.get("gops"),
                f"{spread['of_int8']:.0%}" if "of_int8" in spread else None,
                f"{rival['mean_iou']:.4f}" if stage == END_TO_END else None,
            ))  # fmt: skip
    ceiling = report["ceiling"]
    limits = [
        (each["stage"], each["operations"] / 1e9, each["int8_gops"], each["fp32_gops"])
        for each in ceiling["stages"]
    ]
    limits.append(("any, at best", None, ceiling["int8_gops"], ceiling["fp32_gops"]))
    return "\n\n".join((table(_HEADER, rows), table(_CEILING_HEADER, limits)))
