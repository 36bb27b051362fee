"""What ModelOpt's own Python runs: a graph and its feeds in a folder, and the Q/DQ graph out.

It is started as a file by its path, so it imports nothing of this package.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["GRAPH", "MISSING", "NAMES", "QUANTIZED", "Feeds", "quantize"]

GRAPH = "model.onnx"
"""The FP32 graph in the folder; weights beside it end in ".data"."""
NAMES = "names.json"
"""Names of its inputs; each run's arrays lie beside it in their order, in one NPZ file a run."""
QUANTIZED = "quantized.onnx"
"""What is written beside the graph."""
MISSING = 3
"""How the job ends where ModelOpt does not import."""


class Feeds:
    """Hands one run's inputs after the other to whoever calibrates, each read when it is asked for.

    ModelOpt's own reader cuts one long array into runs of the same size; phrases vary in length.
    """

    def __init__(self, folder: Path) -> None:
        """Find `NAMES` and the runs in `folder`."""
        self._names = json.loads((folder / NAMES).read_text("utf-8"))
        self._paths = sorted(folder.glob("*.npz"))
        self._left = iter(self._paths)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next run's inputs by name, None after the last."""
        return next(self._read(self._left), None)

    def get_first(self) -> dict[str, np.ndarray]:
        """Return the first run's inputs, whichever is next."""
        return next(self._read(iter(self._paths)))

    def rewind(self) -> None:
        """Begin with the first run again."""
        self._left = iter(self._paths)

    def _read(self, paths: Iterator[Path]) -> Iterator[dict[str, np.ndarray]]:
        for path in paths:
            with np.load(path) as arrays:
                yield {name: arrays[f"arr_{at}"] for at, name in enumerate(self._names)}


def quantize(folder: Path, element: str, method: str) -> int:
    """Quantize the graph of a folder on the CPU.

    Args:
        folder: Holds `GRAPH`, `NAMES` and the runs, and takes `QUANTIZED`.
        element: "int8" or "fp8".
        method: "max" or "entropy".

    Returns:
        0, or `MISSING` where ModelOpt or a library that it needs is not installed.
    """
    try:
        modelopt = importlib.import_module("modelopt.onnx.quantization")
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return MISSING
    modelopt.quantize(
        str(folder / GRAPH),
        quantize_mode=element,
        calibration_method=method,
        calibration_data_reader=Feeds(folder),
        calibration_eps=["cpu"],
        use_external_data_format=(folder / f"{GRAPH}.data").exists(),
        output_path=str(folder / QUANTIZED),
        high_precision_dtype="fp32",  # The gate runs FP32; `export.halve` makes FP16 of it.
        dq_only=True,  # Weights are stored as small numbers, as ours are.
    )
    return 0


if __name__ == "__main__":
    sys.exit(quantize(Path(sys.argv[1]), *sys.argv[2:]))
