"""A bundle for TensorRT on a CPU: graphs of the same values that ONNX Runtime runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..runtime.bundle import Bundle
from .qdq import runnable
from .storage import read, save

__all__ = ["simulate"]


def simulate(bundle: Bundle, folder: Path) -> Bundle:
    """Write a bundle again so that every stage computes on a CPU what it says, slowly.

    Small numbers are rounded as an engine rounds them; floats stay FP32, whatever an engine makes
    of them. Graphs that a CPU runs rightly stay as they are, others become `qdq.runnable`.

    Args:
        bundle: Of any target.
        folder: Of the new bundle.

    Raises:
        SaymaskError: See `Bundle.write`.
    """
    files: dict[str, bytes | Path] = {
        name: bundle.folder / name for name, _ in bundle.manifest.files
    }
    with tempfile.TemporaryDirectory() as scratch:
        graphs = [stage for stage in bundle.manifest.stages if stage.is_graph]
        for stage in graphs:
            model = read(bundle.folder / stage.file)
            simulated = runnable(model)
            if simulated is model:
                continue
            files = {name: path for name, path in files.items() if not name.startswith(stage.file)}
            graph, *beside = save(simulated, Path(scratch, Path(stage.file).name))
            files[stage.file] = graph
            files |= {str(Path(stage.file).with_name(path.name)): path for path in beside}
        return Bundle.write(folder, bundle.manifest, files, bundle.golden())
