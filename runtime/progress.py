"""What a person reads while a verb works: a line that counts, and remarks."""

from __future__ import annotations

import sys
from typing import TextIO

__all__ = ["Progress"]

_ERASE = "\r\x1b[K"


class Progress:
    """Counts on one line of a terminal, which it clears in the end; silent elsewhere."""

    def __init__(self, what: str, total: int | None = None, stream: TextIO | None = None) -> None:
        """Count `what`, for example "frames", up to `total` if that is known, on stderr."""
        self._what = what
        self._total = f"/{total}" if total else ""
        self._stream = stream or sys.stderr
        self._count = 0

    def step(self) -> None:
        """Count one more."""
        self._count += 1
        self._show(f"{_ERASE}{self._count}{self._total} {self._what}")

    def say(self, text: str) -> None:
        """Print a line that stays, watched or not."""
        self._show(_ERASE)
        self._stream.write(f"saymask: {text}\n")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._show(_ERASE)

    def _show(self, text: str) -> None:
        if self._stream.isatty():
            self._stream.write(text)
            self._stream.flush()
