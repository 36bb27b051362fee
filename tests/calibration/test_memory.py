import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from saymask.calibration.memory import give_back

MIB = 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_freed_blocks_go_back_to_the_system():
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("another libc than glibc")
    np.ones(30 * MIB, np.uint8)  # Freed, it teaches glibc to keep blocks up to its size.
    blocks = [np.ones(MIB, np.uint8) for _ in range(300)]
    last = np.ones(MIB, np.uint8)  # On top of the heap, so that nothing below shrinks by itself.
    del blocks
    before = resident_bytes()
    give_back()
    assert before - resident_bytes() > 200 * MIB
    assert last.all()


def test_it_may_be_called_at_any_time():
    give_back()
    give_back()
