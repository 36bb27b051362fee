"""Which networks a system has, and which graphs it becomes: one file a system."""

from __future__ import annotations

from types import ModuleType

from ...runtime.tables import module_from_table

__all__ = ["SYSTEMS", "system_module"]

SYSTEMS = {"evf-sam": "evf_sam", "sam4mllm": "sam4mllm"}
"""System name -> module of this folder, imported when asked for."""


def system_module(name: str) -> ModuleType:
    """Import a system's module.

    Raises:
        UnknownNameError: No such system.
    """
    return module_from_table("system", name, SYSTEMS, __name__)
