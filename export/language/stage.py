"""The language stage of a system: its model as a GGUF file, whole, and then in few bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtime.language.parts import Part
from ...runtime.spec import StageSpec
from .comparison import compare_files
from .conversion import DTYPES, convert
from .importance import measure_importance
from .layout import Layout
from .mixture import QUANTIZED
from .quantization import quantize

__all__ = ["FORMATS", "STAGE", "LanguageSource", "is_whole", "quantized_stage", "whole_stage"]

STAGE = "language"
"""Name of the stage."""
FORMATS = tuple(dict.fromkeys((*DTYPES, *QUANTIZED)))
"""What the stage's matrices may be held in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSource:
    """Where a system's language model lies."""

    folder: Path
    """Weights and vocabulary; what else is in the weights is passed over by name."""
    layout: Layout | None
    """What the model is, where the folder's config.json doesn't say it."""
    adapter: Path | None
    """A LoRA that is merged into it, or None."""


def is_whole(format: str) -> bool:
    """Say whether a key of `FORMATS` is one that a checkpoint is converted to."""
    return format in DTYPES


def whole_stage(source: LanguageSource, format: str, folder: Path) -> tuple[StageSpec, list[Path]]:
    """Convert the model.

    Args:
        source: Where it lies.
        format: Key of `conversion.DTYPES`.
        folder: Takes the file.

    Returns:
        The stage, and its file.

    Raises:
        SaymaskError: See `conversion.convert`.
    """
    out = folder / f"{STAGE}.gguf"
    convert(source.folder, out, adapter=source.adapter, format=format, layout=source.layout)
    return _stage(format, f"{format.lower()} was asked for"), [out]


def quantized_stage(
    whole: Path, format: str, readings: Sequence[Sequence[Part]], folder: Path, *, threads: int
) -> tuple[StageSpec, list[Path]]:
    """Round the model's matrices, those weights best that count most in what it reads.

    Args:
        whole: What `whole_stage` wrote.
        format: Key of `mixture.QUANTIZED`.
        readings: What it will read, see `importance.measure_importance`; without any, all weights
            count alike.
        folder: Takes the file; another than `whole`'s.
        threads: Threads of the CPU.

    Returns:
        The stage, whose reason says what rounding cost, and its file.

    Raises:
        SaymaskError: See `quantization.quantize`.
    """
    out = folder / f"{STAGE}.gguf"
    importance = measure_importance(whole, readings, threads=threads) if readings else None
    quantize(whole, out, format=format, importance=importance, threads=threads)
    reason = f"{format.lower()} was asked for"
    if readings:
        before, after = compare_files([whole, out], readings, device="cpu", threads=threads)
        reason += (
            f"; perplexity {after.perplexity:.3f} where the whole has {before.perplexity:.3f}, the "
            f"same next token at {100 * after.agreement:.1f} % of positions, "
            f"{after.size_bytes / before.size_bytes:.2f} of its size"
        )
    return _stage(format, reason), [out]


def _stage(format: str, reason: str) -> StageSpec:
    return StageSpec(
        name=STAGE,
        file=f"stages/{STAGE}.gguf",
        inputs=(),
        outputs=(),
        precision=format.lower(),
        reason=reason,
    )
