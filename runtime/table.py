"""Rows as a plain text table."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["table"]

_NUMBER = re.compile(r"[-+]?[\d.,]+( ?[%x]| [a-zA-Z]+)?|-|")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Set rows under a header, columns of numbers to the right and others to the left.

    Args:
        header: One word for each column.
        rows: As many cells each; floats get three digits or all before the point, None is "-".

    Returns:
        Lines joined by newlines, without one at the end.
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    lines = [list(header), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    is_right = [all(map(_NUMBER.fullmatch, column[1:])) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_right, strict=True)
        ).rstrip()
        for line in lines
    )


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:.0f}"
    return str(cell)
