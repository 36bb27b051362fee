"""The steps of an export: each is said when it begins, and what all of them took at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..calibration.memory import give_back
from ..runtime.machine import forget_peak_memory, peak_memory_bytes
from ..runtime.table import table

__all__ = ["Steps"]

_HEADER = ("step", "seconds", "peak MiB")


class Steps:
    """Keeps the time and the peak of resident memory of each step."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Tell `say` each step in one line."""
        self.say = say
        self._rows: list[tuple[object, ...]] = []

    @contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[None]:
        """Say `name` and `detail`, measure the block, then give freed memory back."""
        self.say(f"{name}{detail}")
        forget_peak_memory()
        start = time.monotonic()
        yield
        peak = peak_memory_bytes()
        self._rows.append((name, round(time.monotonic() - start, 1), peak and peak >> 20))
        give_back()

    def lines(self) -> list[str]:
        """Lay out what every step took, in the order they ended, under a header."""
        return table(_HEADER, self._rows).splitlines()
