"""`saymask train`: a system from nothing to a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...runtime.errors import UsageError, require
from ..systems import SYSTEMS, system_module


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("system", help=", ".join(SYSTEMS))
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="scenes, states and the checkpoint go here; a second call goes on where this stopped",
    )  # fmt: skip
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X",
        help="share of the recipe's scenes and steps, for a quick try (1.0)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train and say where the checkpoint is."""
    if not 0 < args.scale <= 1:
        raise UsageError(f"--scale must be above 0 and at most 1; got {args.scale:g}")
    module = system_module(args.system)
    for library in ("torch", "accelerate", "tqdm"):
        require(library, extra="train")
    print(module.train(module.recipe(args.scale), args.out))
    return 0
