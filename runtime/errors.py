"""Every error saymask raises, as one tree.

    SaymaskError                  exit 1   something failed
    |-- UsageError                exit 2   the call itself is wrong (ValueError)
    |   `-- UnknownNameError      exit 2   a name that is not in its table; it lists the known ones
    |-- InputError                exit 1   what the user gave cannot be used (ValueError)
    |   |-- FrameError            exit 1   an image array of the wrong dtype, shape or content
    |   |-- PromptError           exit 1   empty or over-long words
    |   `-- SourceError           exit 1   an image, video or folder that cannot be read
    |-- MissingExtraError         exit 1   an optional library is not installed (ImportError)
    |-- BundleError               exit 1   a bundle that is damaged, edited, foreign or incomplete
    |-- CheckpointError           exit 1   a checkpoint that does not fit the network
    |-- EngineError               exit 1   an engine refused a graph or its inputs (RuntimeError)
    |-- OutputError               exit 1   results cannot be written (OSError)
    |-- GateError                 exit 3   the accuracy gate failed
    `-- DeviceError               exit 4   this bundle or request does not fit this machine

A message says what must hold, what came and what to do.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "BundleError",
    "CheckpointError",
    "DeviceError",
    "EngineError",
    "FrameError",
    "GateError",
    "InputError",
    "MissingExtraError",
    "OutputError",
    "PromptError",
    "SaymaskError",
    "SourceError",
    "UnknownNameError",
    "UsageError",
    "require",
]


class SaymaskError(Exception):
    """Something failed; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(SaymaskError, ValueError):
    """The call itself is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in its table."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        """Say which `what` was asked for as `name` and list the `known` ones."""
        super().__init__(f"{what} must be one of {', '.join(sorted(known))}; got {name!r}")


class InputError(SaymaskError, ValueError):
    """What the user gave cannot be used."""


class FrameError(InputError):
    """An image array of the wrong dtype, shape or content."""


class PromptError(InputError):
    """Empty or over-long words."""


class SourceError(InputError):
    """An image, video or folder that cannot be read."""


class MissingExtraError(SaymaskError, ImportError):
    """An optional library is not installed."""


class BundleError(SaymaskError):
    """A bundle that is damaged, edited, foreign or incomplete."""


class CheckpointError(SaymaskError):
    """A checkpoint that does not fit the network."""


class EngineError(SaymaskError, RuntimeError):
    """An engine refused a graph or its inputs."""


class OutputError(SaymaskError, OSError):
    """Results cannot be written."""


class GateError(SaymaskError):
    """The accuracy gate failed."""

    exit_code = 3


class DeviceError(SaymaskError):
    """This bundle or request does not fit this machine."""

    exit_code = 4


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional library, or say which extra brings it.

    Args:
        module: Import name of the library, for example "onnxruntime".
        extra: Name of the extra in pyproject.toml that installs it.

    Raises:
        MissingExtraError: The library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs the library {module!r}, which is not installed or does not load "
            f"({error}); run: pip install 'saymask[{extra}]'"
        ) from error
