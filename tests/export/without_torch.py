"""Segments in a process of its own that can import neither torch nor the floors above runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

TEXTS = ("the red mug", "lamp")
_PROGRAM = f"""
TEXTS = {TEXTS}
import sys
FORBIDDEN = ("torch", "onnx", "safetensors", *("saymask." + floor for floor in sys.argv[3:]))

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if any(name == each or name.startswith(each + ".") for each in FORBIDDEN):
            raise ModuleNotFoundError(name + " is forbidden here")

sys.meta_path.insert(0, Refuse())
import numpy as np
from saymask.runtime import Segmenter
segmenter = Segmenter.open(sys.argv[1], device="cpu", threads=1)
masks = segmenter.segment(np.load(sys.argv[2]), TEXTS)
print(*masks.boolean.shape, *masks.boolean.sum((1, 2)))
"""


def segment(bundle: Path, frame: np.ndarray, scratch: Path) -> tuple[int, ...]:
    """Return the shape of the masks of `TEXTS`, and the pixels of each."""
    np.save(scratch / "frame.npy", frame)
    words = (bundle, scratch / "frame.npy", "calibration", "export", "train")
    command = [sys.executable, "-c", _PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))
