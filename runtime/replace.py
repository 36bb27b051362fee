"""A folder that takes another's place in one step, so that nobody ever sees half of it."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Fill a hidden sibling of `folder`, which takes its place when the block ends well.

    When the block raises, the sibling is deleted; when the process is killed, the sibling stays
    as `.NAME.*.partial` and the next call deletes it. So one process at a time may replace a
    folder: of two, the later one makes the earlier one fail.

    Args:
        folder: What is replaced; it need not exist, but its parent is made.

    Yields:
        An empty folder to fill.

    Raises:
        OSError: The parent cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.partial")
    partial.mkdir()
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        if not folder.exists():
            partial.rename(folder)
        elif not _exchange(partial, folder):
            # Not one step: a kill between these two renames leaves only the sibling.
            aside = partial.with_suffix(".old.partial")
            folder.rename(aside)
            partial.rename(folder)
            partial = aside
        _sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot (Linux can)."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, TypeError):
        return False
    status = renameat2(
        _AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    return status == 0


def _sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
