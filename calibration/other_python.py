"""A job in another Python, for libraries that do not go together with ours."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..runtime.errors import EngineError, MissingExtraError

__all__ = ["check_python", "run_job"]

_LINES_SHOWN = 5
_FIND = (
    "import sys; from importlib.util import find_spec; "
    "lacks = [f'No module named {it!r}' for it in sys.argv[1:] if not find_spec(it)]; "
    "sys.exit(', '.join(lacks) or 0)"
)
"""What another interpreter runs to say which modules it lacks."""


def run_job(
    job: Path,
    words: Sequence[str],
    *,
    python: Path,
    result: Path,
    missing: int,
    library: str,
    commands: Sequence[str],
    must: str,
    otherwise: str,
) -> None:
    """Run a file of ours in another interpreter, and tell what it said last where it fails.

    Args:
        job: The file; it imports nothing of this package.
        words: Its arguments.
        python: The interpreter.
        result: A file that the job writes.
        missing: How the job ends where `library` does not import.
        library: What the interpreter must have.
        commands: What makes its environment.
        must: What the job must do, for the message.
        otherwise: What to do where it fails.

    Raises:
        EngineError: The job failed, or left no result.
        MissingExtraError: There is no such interpreter, or it lacks the library.
    """
    # Isolated: the job's own folder must not come first, as a file in it may be called like a
    # library that it needs.
    command = [str(python), "-I", str(job), *words]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise _no_environment(python, library, commands, str(error)) from error
    if done.returncode == missing:
        raise _no_environment(python, library, commands, _end_of(done.stdout))
    if done.returncode or not result.is_file():
        raise EngineError(
            f"{must}; it ended with code {done.returncode} and said: {_end_of(done.stdout)}; "
            f"{otherwise}, or make its environment again with: {'; '.join(commands)}"
        )


def check_python(
    python: Path, modules: Sequence[str], *, library: str, commands: Sequence[str]
) -> None:
    """Make sure that another interpreter has some modules, none of which it imports.

    Args:
        python: The interpreter.
        modules: Names without dots.
        library: As in `run_job`.
        commands: As in `run_job`.

    Raises:
        MissingExtraError: There is no such interpreter, or it lacks one of them.
    """
    command = [str(python), "-I", "-c", _FIND, *modules]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise _no_environment(python, library, commands, str(error)) from error
    if done.returncode:
        raise _no_environment(python, library, commands, _end_of(done.stdout))


def _no_environment(
    python: Path, library: str, commands: Sequence[str], found: str
) -> MissingExtraError:
    return MissingExtraError(
        f"{library} must be installed for {python}, an environment of its own; {found}; make it "
        f"with: {'; '.join(commands)}"
    )


def _end_of(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip(" ^~")]
    return " | ".join(lines[-_LINES_SHOWN:]) or "nothing"
