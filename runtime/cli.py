"""The command line `saymask VERB`: finds the verb, runs it alone and ends with its exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from types import ModuleType
from typing import NoReturn

from .errors import MissingExtraError, SaymaskError, UnknownNameError, UsageError

__all__ = ["main"]

PROGRAM = "saymask"
GROUP = "saymask.verbs"
"""Entry points of this group are verbs: modules with `add_arguments(parser)` and `run(args)`."""

SUMMARIES = {
    "export": "turn a checkpoint into a bundle of compiled stages",
    "build": "compile a bundle's engines for TensorRT",
    "segment": "draw masks of what you say on images, videos and live streams",
    "info": "show what a bundle holds and how well it does",
    "check": "replay a bundle's golden inputs on this machine",
    "bench": "time bundles, side by side or on a stream",
    "doctor": "show what this machine has and what is missing",
    "world": "draw scenes of the tabletop world with their truth",
    "train": "train a system",
    "eval": "score bundles against the truth",
    "compare": "hold bundles against FP32, by their masks or layer by layer",
}
"""What `saymask --help` says of a verb without importing it, in this order."""

EXTRAS = {
    "build": "export",
    "compare": "export",
    "export": "export",
    "world": "train",
    "train": "train",
    "eval": "train",
}
"""The extra that a verb needs; the others need "cpu" or none."""

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Words after the program's name; None takes the process's own.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 3 accuracy gate failed, 4 does not fit this
        machine, 130 interrupted.
    """
    logging.basicConfig(format=f"{PROGRAM}: %(message)s")
    try:
        code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _end("interrupted", INTERRUPTED)
    except BrokenPipeError:  # nobody reads on, as in `saymask segment --json | head -1`
        return _end("error: whoever read the output has stopped", SaymaskError.exit_code)
    except SaymaskError as error:
        return _end(f"error: {error}", error.exit_code)
    except OSError as error:
        return _end(f"error: {error}", SaymaskError.exit_code)


class _Parser(argparse.ArgumentParser):
    """A parser that never guesses at abbreviations and raises where argparse would exit."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see: {self.prog} --help")


def _run(argv: list[str]) -> int:
    verbs = {entry.name: entry for entry in entry_points(group=GROUP)}
    try:
        args = _top_parser(verbs).parse_args(argv)
        if args.verb not in verbs:
            raise UnknownNameError("the verb", args.verb, verbs)
        module = _load(verbs[args.verb])
        parser = _Parser(prog=f"{PROGRAM} {args.verb}", description=module.__doc__)
        module.add_arguments(parser)
        args = parser.parse_args(args.rest)
    except SystemExit as end:  # argparse ends --help and --version this way
        return int(end.code or 0)
    return module.run(args)


def _top_parser(verbs: Iterable[str]) -> _Parser:
    names = [name for name in SUMMARIES if name in verbs] + sorted(set(verbs) - set(SUMMARIES))
    lines = [f"  {name:<10}{SUMMARIES.get(name, '')}".rstrip() for name in names]
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} VERB ...",
        description="Say it, get the mask: language-prompted segmentation without PyTorch.",
        epilog="\n".join(["verbs:", *lines, "", f"{PROGRAM} VERB --help tells more of a verb."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version(PROGRAM)}")
    parser.add_argument("verb", metavar="VERB", help="what to do, see below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help=argparse.SUPPRESS)
    return parser


def _load(verb: EntryPoint) -> ModuleType:
    try:
        return verb.load()
    except ImportError as error:
        raise MissingExtraError(
            f"the verb {verb.name!r} needs a library that is not installed or does not load "
            f"({error}); run: pip install '{PROGRAM}[{EXTRAS.get(verb.name, 'cpu')}]'"
        ) from error


def _end(message: str, exit_code: int) -> int:
    """Say why it ends, and keep the interpreter from complaining of an output that is gone."""
    sys.stderr.write(f"{PROGRAM}: {message}\n")
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code
