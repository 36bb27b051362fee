"""Choice by name: a table of modules, one of which is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

from .errors import UnknownNameError

__all__ = ["module_from_table"]


def module_from_table(what: str, name: str, table: Mapping[str, str], package: str) -> ModuleType:
    """Import the module that `table` gives for `name`.

    Args:
        what: What the names stand for, for the message.
        name: What the user asked for.
        table: Name -> module of `package`.
        package: Dotted name of the package that holds the modules.

    Raises:
        UnknownNameError: `name` is not in the table; the known ones are listed.
    """
    if name not in table:
        raise UnknownNameError(what, name, table)
    return importlib.import_module(f".{table[name]}", package)
