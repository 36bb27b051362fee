"""What was counted of a graph's tensors, kept on disk: whole, or as far as a calibration came."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..runtime.errors import UsageError
from .histogram import Histogram

__all__ = ["KeptHistograms", "claim", "data_sha256"]

_KEY = "key.json"
_STATISTICS = "statistics.npz"
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


def data_sha256(feeds: Iterable[Mapping[str, np.ndarray]]) -> str:
    """Return a digest of all arrays of all runs in order, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for feed in feeds:
        for name, array in sorted(feed.items()):
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def claim(folder: Path, key: Mapping[str, str]) -> None:
    """Make `folder` the place of what follows from `key`.

    Args:
        folder: Is made where there is none.
        key: What the content depends on, each with a digest.

    Raises:
        UsageError: The folder holds the content of another key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _KEY
    try:
        kept = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        partial = folder / f"{_KEY}.partial"
        partial.write_text(json.dumps(dict(key)), "utf-8")
        partial.replace(path)
        return
    except ValueError:
        kept = {}
    other = [name for name, digest in key.items() if kept.get(name) != digest]
    if other:
        raise UsageError(
            f"what is kept must be of the same {', '.join(key)}; {folder} holds that of another "
            f"{' and another '.join(other)}; delete that folder or give another --work"
        )


class KeptHistograms:
    """A folder with the histograms of some tensors and how many runs they have seen."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it need not exist."""
        self.folder = folder

    def load(self, histograms: Mapping[str, Histogram]) -> tuple[dict[str, Histogram], int]:
        """Return the kept histograms of the same names and how many runs they have seen.

        What is missing or cannot be read, as after a power cut, counts as nothing seen.
        """
        try:
            with (self.folder / _STATISTICS).open("rb") as file, np.load(file) as kept:
                found = {
                    name: Histogram.restored(
                        {part: kept[f"{number} {part}"] for part in histogram.state()},
                        channel_axis=histogram.channel_axis,
                    )
                    for number, (name, histogram) in enumerate(histograms.items())
                }
                return found, int(kept["runs"])
        except _UNREADABLE:
            return dict(histograms), 0

    def save(self, histograms: Mapping[str, Histogram], runs: int) -> None:
        """Keep histograms in one step: a kill leaves the ones before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{number} {part}": array
            for number, histogram in enumerate(histograms.values())
            for part, array in histogram.state().items()
        }
        partial = self.folder / f"partial.{_STATISTICS}"
        np.savez(partial, allow_pickle=False, runs=np.array(runs), **arrays)
        partial.replace(self.folder / _STATISTICS)
