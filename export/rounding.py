"""A system's language model in few bits: what it reads meanwhile, and what that costs the masks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..calibration.gate import Loss, points_apart, points_lost, score_samples
from ..calibration.gate_report import GateReport, gate_report
from ..calibration.samples import Sample
from ..calibration.score import Score
from ..runtime.bundle import Bundle
from ..runtime.errors import GateError
from ..runtime.language.parts import Part
from ..runtime.prompt import prompts_from
from ..runtime.replay import NEXT_TOKEN, PART, next_token_logits
from ..runtime.spec import Manifest, StageSpec
from ..runtime.systems import System, open_system
from .language.folder_stage import folder_stage
from .language.stage import STAGE as LANGUAGE
from .language.stage import LanguageSource, quantized_stage
from .quantization import Reference
from .recipe import ExportRecipe
from .steps import Steps

__all__ = [
    "golden_reading",
    "judge_language",
    "put_tensorrt_llm",
    "readings_of",
    "round_language",
]

PHRASES = 2
"""Phrases of each picture that are read."""
GOLDEN_VECTORS = 16
"""Vectors of a picture that `saymask check` reads."""


def readings_of(system: System, samples: Sequence[Sample]) -> list[tuple[Part, ...]]:
    """Return what a language model reads and answers about samples; nothing of no model."""
    readings = (
        system.reading(sample.frame, prompt)
        for sample in samples
        for prompt in prompts_from(sample.texts[:PHRASES])
    )
    return list(filter(None, readings))


def golden_reading(
    whole: Bundle, readings: Sequence[Sequence[Part]], *, threads: int
) -> dict[str, np.ndarray]:
    """Return what a language model reads and says, for `Bundle.golden`; nothing of no model.

    Args:
        whole: Its model is not rounded.
        readings: The first one is taken, with fewer vectors.
        threads: Threads of the CPU.
    """
    if not readings:
        return {}
    arrays = map(np.asarray, readings[0])
    parts = [array[:GOLDEN_VECTORS] if array.ndim == 2 else array for array in arrays]
    said = next_token_logits(whole, LANGUAGE, parts, device="cpu", threads=threads)
    golden = {f"{LANGUAGE}/{PART}{number}": part for number, part in enumerate(parts)}
    return golden | {f"{LANGUAGE}/{NEXT_TOKEN}": said}


def round_language(
    recipe: ExportRecipe,
    manifest: Manifest,
    graphs: dict[str, list[Path]],
    readings: Sequence[Sequence[Part]],
    scratch: Path,
    steps: Steps,
) -> Manifest:
    """Put a language model of few bits in the place of the whole one."""
    folder = scratch / "language"
    folder.mkdir()
    with steps.step(f"quantize {LANGUAGE}"):
        rounded, files = quantized_stage(
            graphs[LANGUAGE][0], recipe.language_format, readings, folder, threads=recipe.threads
        )
    return _put(manifest, graphs, rounded, files, steps)


def put_tensorrt_llm(
    recipe: ExportRecipe,
    manifest: Manifest,
    graphs: dict[str, list[Path]],
    source: LanguageSource,
    readings: Sequence[Sequence[Part]],
    folder: Path,
    steps: Steps,
) -> Manifest:
    """Put a folder for TensorRT-LLM in the place of the whole language model.

    It is not run here: the graphs are judged beside the whole one.
    """
    assert recipe.tensorrt_llm is not None  # It is what is called for.
    with steps.step(f"quantize {LANGUAGE}"):
        stage, files = folder_stage(
            source,
            recipe.tensorrt_llm,
            readings,
            folder,
            python=recipe.modelopt_python,
            say=steps.say,
        )
    return _put(manifest, graphs, stage, files, steps)


def _put(
    manifest: Manifest,
    graphs: dict[str, list[Path]],
    language: StageSpec,
    files: list[Path],
    steps: Steps,
) -> Manifest:
    graphs[LANGUAGE] = files
    steps.say(f"chose {LANGUAGE}: {language.reason}")
    stages = (language if stage.name == LANGUAGE else stage for stage in manifest.stages)
    return replace(manifest, stages=tuple(stages))


def judge_language(
    recipe: ExportRecipe,
    draft: Bundle,
    samples: Sequence[Sample],
    reference: Reference,
    steps: Steps,
) -> tuple[GateReport, dict[str, Score]]:
    """Judge a bundle whose language model alone was rounded; nothing can be lifted there.

    Returns:
        What it costs, and the scores by task.

    Raises:
        GateError: The masks lose more than the recipe allows.
    """
    with (
        steps.step(f"judge {LANGUAGE}"),
        closing(open_system(draft, device="cpu", threads=recipe.threads)) as system,
    ):
        scores, masks = score_samples(system, samples, reference.masks)
    lost = points_lost(reference.scores, scores)
    if not lost <= recipe.max_iou_drop:
        raise GateError(
            f"the masks may lose {recipe.max_iou_drop:g} points of gIoU; with the language model "
            f"in {recipe.language_format} they lose {lost:.2f}; take a finer --llm or allow more "
            "with --max-iou-drop"
        )
    loss = Loss(lost=lost, apart=points_apart(reference.masks, masks))
    budget = recipe.max_iou_drop
    return gate_report({}, reference.scores, scores, loss, budget=budget), scores
