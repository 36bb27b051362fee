"""NVIDIA Polygraphy's word on which layer of a quantized graph strays, a second opinion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..calibration.layerwise import LayerReport, LayerRow, shared_layers
from ..calibration.qdq import runnable
from ..calibration.storage import save
from ..runtime.errors import require

__all__ = ["compare_with_polygraphy"]


def compare_with_polygraphy(
    fp32: onnx.ModelProto,
    quantized: onnx.ModelProto,
    feed: Mapping[str, np.ndarray],
    *,
    floor: float = 0.99,
) -> LayerReport:
    """Let Polygraphy run two graphs and compare every float tensor that has one name in both.

    It opens sessions of its own and holds all tensors of both graphs at once: for graphs of
    gigabytes, `layerwise.compare_layers` takes less. Tensors that are infinite somewhere in FP32,
    such as masked logits, are left out, as it has no cosine for them.

    Args:
        fp32: Graph with names for all nodes.
        quantized: The same network with Q/DQ, INT8 or FP8.
        feed: Real inputs by name.
        floor: Least cosine that counts as agreement, in [-1, 1].

    Raises:
        MissingExtraError: polygraphy is not installed.
        UsageError: No tensor has one name in both.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/polygraphy, Comparator.
    """
    require("polygraphy", extra="polygraphy")
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, CosineSimilarityCompareFunc, SimpleCompareFunc
    from polygraphy.logger import G_LOGGER

    layers = shared_layers(fp32, quantized)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in layers]
    with TemporaryDirectory() as folder, G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        runners = []
        for name, model in (("fp32", fp32), ("quantized", runnable(quantized))):
            path, *_ = save(model, Path(folder, f"{name}.onnx"), outputs=outputs)
            runners.append(OnnxrtRunner(SessionFromOnnx(str(path)), name=name))
        results: Any = Comparator.run(runners, data_loader=[dict(feed)])
        expected = results["fp32"][0]
        kept = [name for name in layers if np.isfinite(expected[name]).all()]
        measures = (CosineSimilarityCompareFunc(floor), SimpleCompareFunc(check_error_stat="max"))
        with np.errstate(invalid="ignore", over="ignore"):  # It sums what is infinite, too.
            compared = Comparator.compare_accuracy(results, compare_func=list(measures))
        cosines, differences = (next(iter(found.values()))[0] for found in compared)
    rows = [
        LayerRow(
            node=layers[name].name,
            op_type=layers[name].op_type,
            tensor=name,
            cosine=cosines[name].cosine_similarity,
            max_abs=differences[name].max_absdiff,
            fault=_fault(results["quantized"][0][name]),
        )
        for name in kept
    ]
    return LayerReport(rows=tuple(rows), floor=floor)


def _fault(found: np.ndarray) -> str:
    """Name what is not a number in an array, as `layerwise.Agreement.fault`."""
    if np.isfinite(found).all():
        return ""
    return "NaN" if np.isnan(found).any() else "infinity"
