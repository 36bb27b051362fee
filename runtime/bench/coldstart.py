"""A fresh process from its start to its first mask: both the process and who starts it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SaymaskError
from ..machine import peak_memory_bytes
from ..segmenter import Segmenter
from .closed_loop import Workload

__all__ = ["ColdStart", "cold_start"]

_FRAME = "frame.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """What one fresh process took until it held a mask, with its files in the disk cache."""

    total_ms: float
    """From the moment the process was asked for, with Python's own start and all imports."""
    load_ms: float
    """Opening the bundle."""
    first_mask_ms: float
    """Segmenting the first frame."""
    peak_bytes: int | None
    """Most memory the process held; None where the system doesn't tell."""


def cold_start(folder: Path, workload: Workload) -> ColdStart:
    """Start a process, open a bundle in it and segment the first frame of a workload.

    Raises:
        SaymaskError: The process failed.
    """
    with tempfile.TemporaryDirectory() as folder_of_frame:
        # It is the working folder too, so that "python -m" finds no other modules there.
        np.save(Path(folder_of_frame) / _FRAME, workload.frames[0])
        words = [sys.executable, "-m", f"{__package__}.coldstart", str(folder.resolve())]
        words += [workload.device, str(workload.threads or 0), *workload.phrases]
        start_ns = time.monotonic_ns()
        done = subprocess.run(words, cwd=folder_of_frame, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise SaymaskError(
            f"a fresh process must segment with {folder}; it ended with {done.returncode}: "
            f"{''.join(last)}; run: saymask check {folder}"
        )
    told = json.loads(done.stdout)
    total_ms = (told.pop("end_ns") - start_ns) / 1e6
    return ColdStart(total_ms=total_ms, **told)


def _main(words: Sequence[str]) -> None:
    """Be the fresh process: open the bundle, segment the frame and say how long it took."""
    folder, device, threads, *phrases = words
    frame_hwc = np.load(_FRAME)
    start_ns = time.monotonic_ns()
    with Segmenter.open(folder, device=device, threads=int(threads) or None) as segmenter:
        open_ns = time.monotonic_ns()
        segmenter.segment(frame_hwc, phrases)
        end_ns = time.monotonic_ns()
    told = {
        "end_ns": end_ns,
        "load_ms": (open_ns - start_ns) / 1e6,
        "first_mask_ms": (end_ns - open_ns) / 1e6,
        "peak_bytes": peak_memory_bytes(),
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    _main(sys.argv[1:])
