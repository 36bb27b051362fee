"""Named arrays in a folder, read piece by piece when somebody looks at them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

__all__ = ["StoredArrays"]

_NAMES = "names.json"


class StoredArrays(Mapping[str, np.ndarray]):
    """Arrays that lie on disk; each look maps one into memory, and forgetting it lets it go.

    What is written into such an array stays with whoever looked.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder that `write` leaves them in, at the latest when somebody looks."""
        self.folder = folder

    @classmethod
    def write(cls, folder: Path, arrays: Mapping[str, np.ndarray]) -> StoredArrays:
        """Write arrays into `folder`, which appears or is replaced when all are there.

        Raises:
            OSError: There is no room for them.
        """
        partial = folder.with_name(f"{folder.name}.partial")
        for stale in (partial, folder):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir(parents=True)
        for number, array in enumerate(arrays.values()):
            np.save(partial / f"{number}.npy", array)
        (partial / _NAMES).write_text(json.dumps(list(arrays)), "utf-8")
        partial.rename(folder)
        return cls(folder)

    @property
    def are_there(self) -> bool:
        """Whether they were written."""
        return self.folder.is_dir()

    @cached_property
    def _names(self) -> list[str]:
        return json.loads((self.folder / _NAMES).read_text("utf-8"))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        # Private pages: PyTorch warns of arrays it must not write to.
        return np.load(self.folder / f"{self._names.index(name)}.npy", mmap_mode="c")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
