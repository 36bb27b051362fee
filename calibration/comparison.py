"""Quantizers side by side on one system: who stays nearest to FP32, and at what price."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import onnx

from .gate import OVERALL, Loss
from .layerwise import Agreement
from .plan import WEIGHTED_OPS
from .qdq import pairs, rounded_nodes, runnable
from .recording import Run
from .session import open_model
from .turns import weight_bytes

__all__ = ["QuantizerRow", "best_quantizer", "compare_quantizers", "table"]

_COLUMNS = "{:22} {:8} {:>6} {:>6} {:>8} {:>5} {:>8} {:>8}  {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizerRow:
    """One stage, or all of them together, as one quantizer made it."""

    quantizer: str
    """Who, and into what: "modelopt int8 max"."""
    stage: str
    """Name of the stage, the others being FP32, or `gate.OVERALL`."""
    lost: float
    """Points of gIoU that are lost; see `gate.Loss`."""
    apart: float
    """Points of IoU between these masks and FP32's; likewise."""
    cosine: float
    """Least cosine of an output with FP32's."""
    pairs: int
    """Tensors that are rounded while it runs."""
    left: int
    """Weighted nodes that stay in floating point."""
    weight_bytes: int
    """What the constants take."""
    engine: str
    """What a compiler makes of the graph; empty where none was asked."""


def compare_quantizers(
    rivals: Mapping[str, Mapping[str, onnx.ModelProto]],
    runs: Mapping[str, Sequence[Run]],
    judge: Callable[[Mapping[str, onnx.ModelProto]], Loss],
    *,
    threads: int = 1,
    engine: Callable[[str, onnx.ModelProto], str] | None = None,
) -> tuple[QuantizerRow, ...]:
    """Measure what each quantizer made of a system's stages.

    Nothing is timed, so the same graphs give the same rows.

    Args:
        rivals: Quantizer -> stage -> its graph, INT8 or FP8.
        runs: Stage -> what FP32 computed, from `recording.Recorder`.
        judge: Looks at the masks of stages by name as these graphs, such as `gate.Judge`.
        threads: Threads of one operator.
        engine: Compiles a stage's graph and says what came of it, in a few words.

    Returns:
        For each quantizer a row for each of its stages, and one for all of them together.

    Raises:
        EngineError: ONNX Runtime refuses a graph.
    """
    rows: list[QuantizerRow] = []
    for quantizer, models in rivals.items():
        judged = {stage: runnable(model) for stage, model in models.items()}
        own = []
        for stage, model in models.items():
            loss = judge({stage: judged[stage]})
            own.append(
                QuantizerRow(
                    quantizer=quantizer,
                    stage=stage,
                    lost=loss.lost,
                    apart=loss.apart,
                    cosine=_least_cosine(judged[stage], runs[stage], threads),
                    pairs=pairs(model),
                    left=_weighted(model) - len(rounded_nodes(model)),
                    weight_bytes=weight_bytes(model),
                    engine=engine(stage, model) if engine else "",
                )
            )
        loss = judge(judged)
        whole = QuantizerRow(
            quantizer=quantizer,
            stage=OVERALL,
            lost=loss.lost,
            apart=loss.apart,
            cosine=min(row.cosine for row in own),
            pairs=sum(row.pairs for row in own),
            left=sum(row.left for row in own),
            weight_bytes=sum(row.weight_bytes for row in own),
            engine="",
        )
        rows += [*own, whole]
    return tuple(rows)


def best_quantizer(rows: Sequence[QuantizerRow]) -> str:
    """Name the quantizer whose masks are nearest to FP32's; of equals the one with fewer bytes.

    Points lost are not asked: between two that lose tenths of a point, luck decides.
    """
    whole = [row for row in rows if row.stage == OVERALL]
    best = min(whole, key=lambda row: (row.apart, row.weight_bytes))
    return best.quantizer


def table(rows: Sequence[QuantizerRow]) -> tuple[str, ...]:
    """Return the rows as lines of text, with a header, and who wins in the last one."""
    header = _COLUMNS.format(
        "quantizer", "stage", "lost", "apart", "cosine", "pairs", "in float", "KiB", "engine"
    )
    lines = [
        _COLUMNS.format(
            row.quantizer,
            row.stage,
            f"{row.lost:.2f}",
            f"{row.apart:.2f}",
            f"{row.cosine:.5f}",
            row.pairs,
            row.left,
            row.weight_bytes >> 10,
            row.engine,
        ).rstrip()
        for row in rows
    ]
    return (header, *lines, f"{best_quantizer(rows)} stays nearest to FP32")


def _least_cosine(model: onnx.ModelProto, runs: Sequence[Run], threads: int) -> float:
    """Return the cosine of the output that differs most from what was recorded."""
    agreements: dict[str, Agreement] = {}
    with closing(open_model(model, threads=threads)) as engine:
        for each in runs:
            for name, found in engine.run(each.inputs).items():
                agreements.setdefault(name, Agreement()).add(found, each.outputs[name])
    return min(agreement.cosine for agreement in agreements.values())


def _weighted(model: onnx.ModelProto) -> int:
    return sum(node.op_type in WEIGHTED_OPS for node in model.graph.node)
