"""The language stage of a system as a quantized folder, which TensorRT-LLM runs and saymask not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...runtime.language.parts import Part
from ...runtime.spec import StageSpec
from .hugging_face import write_folder
from .stage import STAGE, LanguageSource
from .tensorrt_llm import quantize_language

__all__ = ["folder_stage"]


def folder_stage(
    source: LanguageSource,
    precision: str,
    readings: Sequence[Sequence[Part]],
    folder: Path,
    *,
    python: Path,
    say: Callable[[str], None],
) -> tuple[StageSpec, list[Path]]:
    """Take the model out of its checkpoint, its LoRA merged, and let ModelOpt quantize it.

    Args:
        source: Where it lies.
        precision: Key of `quantized_folder.ALGORITHMS`.
        readings: What it will read, see `quantize_language`.
        folder: Takes the quantized folder, and the one that it is made of.
        python: Interpreter of ModelOpt's environment.
        say: Is told what happens.

    Returns:
        The stage, whose reason says what it costs, and its folder.

    Raises:
        SaymaskError: See `write_folder` and `quantize_language`.
    """
    plain, out = folder / "plain", folder / STAGE
    write_folder(source.folder, plain, adapter=source.adapter, layout=source.layout)
    loss = quantize_language(plain, out, readings, precision=precision, python=python, say=say)
    spec = StageSpec(
        name=STAGE,
        file=f"stages/{STAGE}",
        inputs=(),
        outputs=(),
        precision=precision,
        reason=(
            f"{precision} was asked for, for TensorRT-LLM; simulated, perplexity {loss.after:.3f} "
            f"where the whole has {loss.before:.3f}, the same next token at "
            f"{100 * loss.agreement:.1f} % of positions; its masks were not judged"
        ),
    )
    return spec, [out]
