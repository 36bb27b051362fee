"""The flags of `saymask export` that decide in what a stage computes."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..runtime.errors import UnknownNameError, UsageError
from ..runtime.options import positive

__all__ = ["GPU_ONLY", "add_precision", "language_of", "transforms_of"]

GPU_ONLY = ("fp16", "fp8", "int8-weights", "int4-weights")
"""Precisions that only TensorRT has."""
_TENSORRT_LLM = "TENSORRT-LLM"
"""The format of a language model that becomes a quantized folder."""
_FOLDERS = {"fp8": "fp8", "int8": "int8-sq", "int4-weights": "int4-awq"}
"""Precision -> what such a folder is held in, if nothing else is asked for."""


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add the precision, the target, and how both are settled."""
    precision = parser.add_mutually_exclusive_group()
    for name, text in (
        ("fp16", "FP16 wherever it is safe, for engines that saymask build compiles"),
        ("int8", "INT8 wherever it is faster and right"),
        ("fp8", "FP8 (E4M3) for RTX 40 and newer"),
        ("int8-weights", "INT8 weights alone, for stages that wait for memory"),
        ("int4-weights", "INT4 weights alone"),
    ):
        precision.add_argument(
            f"--{name}", dest="precision", action="store_const", const=name, help=text
        )
    parser.set_defaults(precision="fp32")
    _add_language(parser)
    parser.add_argument(
        "--target",
        choices=("cpu", "openvino", "rtx", "tensorrt"),
        help="what the graphs are written for: cpu is ONNX Runtime's (cpu; rtx for what only "
        "TensorRT has, and beside tensorrt-llm)",
    )
    _add_calibration(parser)
    _add_quantizer(parser)
    parser.add_argument(
        "--plan", type=Path, metavar="FILE", help="follow this plan.json instead of choosing"
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep measurements there, to go on after a stop"
    )


def language_of(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return what `ExportRecipe.language` and `.tensorrt_llm` are.

    Raises:
        UsageError: The flags do not go together.
    """
    if args.llm != _TENSORRT_LLM:
        if args.folder:
            raise UsageError(
                f"--{args.folder} must go with --llm tensorrt-llm; got --llm {args.llm or 'none'}; "
                "add it or take a format of GGUF"
            )
        return args.llm, None
    folder = args.folder or _FOLDERS.get(args.precision)
    if folder is None:
        raise UsageError(
            "--llm tensorrt-llm must go with --int4-awq, --int8-sq or --fp8; got none of them; "
            "add one"
        )
    return None, folder


def transforms_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Return what `ExportRecipe.transforms` is.

    Raises:
        UnknownNameError: There is no such transform.
    """
    # Heavy, and needed only once there is something to export.
    from ..calibration.quantize import TRANSFORMS

    names = () if args.transforms == "none" else tuple(args.transforms.split(","))
    for name in names:
        if name not in TRANSFORMS:
            raise UnknownNameError("a transform", name, (*TRANSFORMS, "none"))
    return names


def _add_language(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--llm",
        type=str.upper,
        metavar="FORMAT",
        help="what a language model's matrices are held in: f32, f16, bf16, q8_0, q6_k, q5_k_m, "
        "q4_k_m or q4_0; or tensorrt-llm, a folder for that and for TensorRT Edge-LLM, made by "
        "--modelopt-python (f16; q8_0 with --int8, q4_k_m with --int4-weights)",
    )
    folder = parser.add_mutually_exclusive_group()
    for name, text in (
        ("int4-awq", "INT4 weights, scaled by AWQ (with --int4-weights)"),
        ("int8-sq", "INT8 weights and inputs, smoothed by SmoothQuant (with --int8)"),
    ):
        folder.add_argument(
            f"--{name}",
            dest="folder",
            action="store_const",
            const=name,
            help=f"of tensorrt-llm: {text}",
        )


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calib",
        metavar="SRC",
        help="folder, glob or video to take the ranges of values from (the samples)",
    )
    parser.add_argument(
        "--calib-images", type=positive, default=16, metavar="N", help="most frames of it (16)"
    )
    parser.add_argument(
        "--calib-phrases", type=Path, metavar="FILE", help="a phrase a line, for bare pictures"
    )
    parser.add_argument(
        "--calib-mem-mib",
        type=positive,
        default=1024,
        metavar="MIB",
        help="what inner tensors may take meanwhile (1024)",
    )
    parser.add_argument(
        "--calib-observer",
        default="mse",
        metavar="NAME",
        help="how ranges are made: mse, minmax, entropy, percentile or percentile:P (mse)",
    )
    parser.add_argument(
        "--transforms",
        default="smooth,migrate",
        metavar="A,B",
        help="what is done to a graph before it is rounded: smooth, migrate, signs, bias, with "
        "commas between, or none (%(default)s)",
    )


def _add_quantizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weight-bits",
        type=int,
        choices=(7, 8),
        help="of INT8 weights for a CPU: 7 also runs rightly on x86 without VNNI (what this "
        "processor needs)",
    )
    parser.add_argument(
        "--quantizer",
        default="saymask",
        metavar="NAME",
        help="who writes graphs for TensorRT: saymask, or modelopt for NVIDIA's (saymask)",
    )
    parser.add_argument(
        "--modelopt-python",
        type=Path,
        default=Path(".venv-modelopt", "bin", "python"),
        metavar="PYTHON",
        help="interpreter of the environment that ModelOpt is installed in (%(default)s)",
    )
    parser.add_argument(
        "--drop-slow",
        action="store_true",
        help="time each block on this CPU and put it back to FP32 where INT8 gains nothing",
    )
