"""Measurements on disk, one a line, so that a search that was killed goes on where it ended."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ..runtime.errors import OutputError

__all__ = ["Journal"]


class Journal:
    """Remembers figures by the facts they follow from; two searches may share a file.

    A line is added when its measurement is complete. One that was cut off by a kill is skipped.
    """

    def __init__(self, path: Path | None, *, data: str = "") -> None:
        """Read what is known.

        Args:
            path: A file of JSON lines, made when it is missing; None remembers nothing.
            data: Stands for the data that all figures depend on, see `gate.samples_sha256`.

        Raises:
            OutputError: The file can neither be read nor made.
        """
        self._path = path
        self._data = data
        self._known: dict[str, dict[str, float]] = {}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+", encoding="utf-8", errors="replace") as file:
                file.seek(0)
                text = file.read()
                if text and not text.endswith("\n"):
                    file.write("\n")
        except OSError as error:
            raise OutputError(
                f"a search must keep its measurements in {path}, which failed: {error}; check the "
                "path, its rights and the free space"
            ) from error
        for line in text.splitlines():
            self._known.update(_entry(line))

    def measured(
        self, what: str, facts: Mapping[str, object], measure: Callable[[], Mapping[str, float]]
    ) -> dict[str, float]:
        """Return the figures that follow from `facts`; measure them only if they are not known.

        Args:
            what: Says to a reader of the file what was measured.
            facts: Everything but the data that decides the figures, as JSON can hold it.
            measure: Returns the figures by name.

        Raises:
            OutputError: The line cannot be written.
        """
        said = json.dumps([what, self._data, facts], sort_keys=True)
        key = hashlib.sha256(said.encode()).hexdigest()
        if key not in self._known:
            figures = dict(measure())
            self._write({"key": key, "what": what, "figures": figures})
            self._known[key] = figures
        return self._known[key]

    def _write(self, entry: Mapping[str, object]) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"a measurement must be kept in {self._path}, which failed: {error}; check its "
                "rights and the free space, then start again: what is in it is not lost"
            ) from error


def _entry(line: str) -> dict[str, dict[str, float]]:
    """Read one line; nothing of a damaged one."""
    try:
        entry = json.loads(line)
        return {entry["key"]: {name: float(value) for name, value in entry["figures"].items()}}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
