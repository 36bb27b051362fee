"""Memory that was freed, given back while the next step needs it for something else."""

from __future__ import annotations

import ctypes
import gc
import sys

__all__ = ["give_back"]


def give_back() -> None:
    """Collect what is unreachable and give freed memory back to the system.

    glibc keeps freed blocks of less than 32 MiB, as most weights are: 4.6 GiB after running SAM
    ViT-H with BEiT-3 large. Elsewhere than on Linux this only collects.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
