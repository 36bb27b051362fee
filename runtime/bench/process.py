"""What this process holds at a moment: memory, open files and threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Holdings", "holdings"]

_SELF = Path("/proc/self")
_RESIDENT = 1
"""Place of the resident pages in statm (proc_pid_statm(5))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a process holds; what leaks grows here first."""

    rss_bytes: int
    """Memory that lies in RAM."""
    descriptors: int
    """Open files, sockets and devices."""
    threads: int
    """Threads, those of libraries included."""


def holdings() -> Holdings | None:
    """Look at this process; None where the system doesn't tell."""
    try:
        pages = int((_SELF / "statm").read_text().split()[_RESIDENT])
        descriptors = len(list((_SELF / "fd").iterdir())) - 1  # the listing needs one itself
        threads = len(list((_SELF / "task").iterdir()))
    except OSError:
        return None
    return Holdings(
        rss_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        descriptors=descriptors,
        threads=threads,
    )
