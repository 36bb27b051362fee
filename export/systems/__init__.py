"""Which networks a system has, and which graphs it becomes: one file a system."""

from __future__ import annotations

import importlib
from types import ModuleType

from ...runtime.errors import UnknownNameError

__all__ = ["SYSTEMS", "system_module"]

SYSTEMS = {"evf-sam": "evf_sam"}
"""System name -> module of this folder, imported when asked for."""


def system_module(name: str) -> ModuleType:
    """Import a system's module.

    Raises:
        UnknownNameError: No such system.
    """
    if name not in SYSTEMS:
        raise UnknownNameError("system", name, SYSTEMS)
    return importlib.import_module(f".{SYSTEMS[name]}", __package__)
