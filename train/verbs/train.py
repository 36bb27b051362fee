"""`saymask train`: a system from nothing to a checkpoint."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from ...runtime.errors import OutputError, UnknownNameError, UsageError, require
from ...runtime.options import add_json
from ..systems import SYSTEMS, system_module

LIBRARIES = ("torch", "accelerate", "tqdm", "peft", "tokenizers", "sentencepiece")
"""What training needs sooner or later, asked for before it takes hours."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("system", help=", ".join(SYSTEMS))
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="scenes, states and the checkpoint go here; a second call goes on where this stopped",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", metavar="NAME",
        help="of the system's recipes; a wrong name lists them (miniature, which ships)",
    )  # fmt: skip
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X",
        help="share of the recipe's scenes and steps, for a quick try (1.0)",
    )  # fmt: skip
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Train and say where the checkpoint is."""
    if not 0 < args.scale <= 1:
        raise UsageError(f"--scale must be above 0 and at most 1; got {args.scale:g}")
    for library in LIBRARIES:
        require(library, extra="train")
    module = system_module(args.system)
    name = args.recipe or next(iter(module.RECIPES))
    if name not in module.RECIPES:
        raise UnknownNameError(f"recipe of {args.system}", name, module.RECIPES)
    _make_writable(args.out)
    recipe = module.scaled(module.RECIPES[name], args.scale)
    checkpoint = str(module.train(recipe, args.out))
    print(json.dumps({"checkpoint": checkpoint}) if args.json else checkpoint)
    return 0


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"--out must be a folder that can be written; {folder} is not: {error.strerror}; "
            "name another"
        ) from error
