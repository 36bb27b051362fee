"""What the FP32 system does on pictures: what quantized stages are made from and held against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..calibration.cache import claim
from ..calibration.frames import calibration_samples, read_phrases, warn_of_likes
from ..calibration.gate import score_samples
from ..calibration.recording import Recorder, Run
from ..calibration.samples import Sample
from ..runtime.bundle import Bundle
from ..runtime.errors import CheckpointError
from ..runtime.live.memory_tracking import MEMORY_STAGES
from ..runtime.masks import Masks
from ..runtime.prompt import prompts_from
from ..runtime.systems import System
from .quantization import Reference
from .recipe import ExportRecipe
from .steps import Steps

__all__ = ["calibration_runs", "follow", "golden_arrays", "observe"]

GOLDEN_PHRASES = 2
"""What a bundle's golden frame is asked."""


def observe(system: System, samples: Sequence[Sample], folder: Path) -> Reference:
    """Segment the samples.

    Args:
        system: In FP32.
        samples: Pictures with phrases.
        folder: Takes what every stage computed, and must outlive what is returned.

    Returns:
        What each stage that segments pictures computed, the scores and the masks.

    Raises:
        CheckpointError: The model finds so little that a stage never runs.
        SaymaskError: See `score_samples`.
    """
    recorder = Recorder(folder)
    scores, masks = score_samples(system.with_engines(recorder.watch), samples)
    runs = {name: runs for name, runs in recorder.runs.items() if name not in MEMORY_STAGES}
    idle = [name for name, found in runs.items() if not found]
    if idle:
        raise CheckpointError(
            f"every stage must run on the samples; {', '.join(idle)} did not, as the model found "
            f"nothing in {len(samples)} pictures; give --samples that it can answer"
        )
    return Reference(runs, scores, masks)


def follow(system: System, sample: Sample) -> dict[str, list[Run]]:
    """Follow a box on a picture that stands still; return what ran that segments no picture.

    As no picture can judge these stages, they stay in FP32.
    """
    recorder = Recorder()
    tracker = system.with_engines(recorder.watch).open_tracker()
    if tracker is None:
        return {}
    texts, (height, width) = sample.texts[:GOLDEN_PHRASES], sample.frame.shape[:2]
    boxes = np.zeros((len(texts), height, width), np.bool_)
    boxes[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    tracker.restart(sample.frame, Masks.of(boxes, np.ones(len(texts), np.float32), texts))
    tracker.follow(sample.frame)
    return {name: recorder.runs[name] for name in MEMORY_STAGES}


def golden_arrays(
    system: System, samples: Sequence[Sample], followed: Mapping[str, list[Run]]
) -> dict[str, np.ndarray]:
    """Return the first frame that all stages run on, its phrases and what FP32 makes of them.

    Args:
        system: In FP32.
        samples: Pictures with phrases.
        followed: What `follow` returned.

    Returns:
        "frame" (H, W, 3) uint8, "phrases" and "STAGE/TENSOR" of every input and output.

    Raises:
        CheckpointError: There is no such frame.
    """
    for sample in samples:
        recorder = Recorder()
        texts = sample.texts[:GOLDEN_PHRASES]
        system.with_engines(recorder.watch).segment(sample.frame, prompts_from(texts))
        runs = {**recorder.runs, **followed}
        if all(runs.values()):
            break
    else:
        raise CheckpointError(
            f"the first {GOLDEN_PHRASES} phrases of some picture must run every stage; the model "
            f"found nothing in {len(samples)}; give --samples that it can answer"
        )
    golden = {"frame": sample.frame, "phrases": np.array(texts)}
    for name, (run, *_) in runs.items():
        for arrays in (run.inputs, run.outputs):
            golden |= {f"{name}/{tensor}": array for tensor, array in arrays.items()}
    return golden


def calibration_runs(
    recipe: ExportRecipe,
    draft: Bundle,
    system: System,
    samples: Sequence[Sample],
    reference: Reference,
    scratch: Path,
    steps: Steps,
) -> Mapping[str, Sequence[Run]]:
    """Run what ranges are taken from through the FP32 engines; the samples, if nothing is named.

    Args:
        recipe: Says which pictures. What ran is kept in its work folder, if it has one, where the
            same graphs find it again.
        draft: The FP32 bundle.
        system: Opened from it.
        samples: What stands in where no pictures are named; a warning says if some are alike.
        reference: What `observe` returned of them.
        scratch: Takes what ran where there is no work folder.
        steps: Are told what happens.

    Returns:
        Stage name -> its runs.

    Raises:
        SourceError: The pictures or phrases can't be read.
        UsageError: The work folder holds what other graphs computed.
    """
    if recipe.calib is None:
        source = str(recipe.samples or "the checkpoint's own samples")
        warn_of_likes((sample.frame for sample in samples), source)
        return reference.runs
    phrases = read_phrases(recipe.calib_phrases) if recipe.calib_phrases else ()
    chosen = calibration_samples(recipe.calib, recipe.calib_images, phrases=phrases)
    folder = scratch / "runs"
    if recipe.work:
        folder = recipe.work / "runs"
        stages = [each for each in draft.manifest.files if each[0].startswith("stages/")]
        claim(folder, {"set of graphs": hashlib.sha256(repr(stages).encode()).hexdigest()})
    recorder = Recorder(folder)
    watched = system.with_engines(recorder.watch)
    with steps.step("calibrate", f" on {len(chosen)} pictures of {recipe.calib}"):
        for sample in chosen:
            watched.segment(sample.frame, prompts_from(sample.texts))
    return recorder.runs
