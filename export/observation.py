"""What the FP32 system does on pictures: what quantized stages are made from and held against."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from ..calibration.cache import claim
from ..calibration.frames import ChosenSamples, calibration_samples, read_phrases, warn_of_likes
from ..calibration.gate import score_samples, with_runs
from ..calibration.recording import Recorder, Run
from ..calibration.samples import Sample
from ..runtime.bundle import Bundle
from ..runtime.engine import Engine, open_engine
from ..runtime.errors import CheckpointError
from ..runtime.live.memory_tracking import MEMORY_STAGES
from ..runtime.masks import Masks
from ..runtime.prompt import prompts_from
from ..runtime.spec import StageSpec
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
    """Return what ranges are taken from, as FP32 computes it; the samples, if nothing is named.

    Args:
        recipe: Says which pictures. What ran is kept in its work folder, if it has one, where the
            same graphs find it again.
        draft: The FP32 bundle.
        system: Opened from it; its engines are closed where pictures are named, and opened again
            when they are needed.
        samples: What stands in where no pictures are named; a warning says if some are alike.
        reference: What `observe` returned of them.
        scratch: Takes what ran where there is no work folder.
        steps: Are told what happens.

    Returns:
        Stage name -> its runs. Of named pictures those of the first stage have inputs at once and
        outputs as soon as they are written or another stage is asked for, which runs whatever is
        missing. The SourceErrors of reading them come then, too.

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
    asleep = partial(_asleep, system, reference.runs, draft, recipe.threads)
    return _PictureRuns(asleep, chosen, folder, f" {len(chosen)} pictures of {recipe.calib}", steps)


@contextmanager
def _asleep(
    system: System, stages: Iterable[str], draft: Bundle, threads: int | None
) -> Iterator[System]:
    """Yield `system` with stages whose engines open when they are needed, and are closed here."""
    with ExitStack() as opened:

        def reopen(stage: StageSpec) -> Engine:
            engine = open_engine(draft, stage.name, device="cpu", threads=threads)
            return opened.enter_context(closing(engine))

        yield with_runs(system, dict.fromkeys(stages, ()), reopen)


class _PictureRuns(Mapping[str, Sequence[Run]]):
    """What runs on pictures, computed when it is asked for.

    The first stage reads nothing but pictures. So its quantization can have its inputs before
    anything is computed, and as that runs it anyway, leaves its outputs for the stages behind it.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[System]],
        samples: ChosenSamples,
        folder: Path,
        title: str,
        steps: Steps,
    ) -> None:
        self._opened, self._samples, self._folder = opened, samples, folder
        self._title, self._steps = title, steps

    @cached_property
    def _begun(self) -> dict[str, list[Run]]:
        recorded = self._recorded("read", self._title, is_brief=True)
        return {name: runs for name, runs in recorded.items() if runs}

    @cached_property
    def _whole(self) -> dict[str, list[Run]]:
        return self._recorded("calibrate", f" on{self._title}", is_brief=False)

    def _recorded(self, step: str, detail: str, *, is_brief: bool) -> dict[str, list[Run]]:
        recorder = Recorder(self._folder, is_brief=is_brief)
        with self._steps.step(step, detail), self._opened() as system:
            recorder.record(system, self._samples)
        return recorder.runs

    def __getitem__(self, stage: str) -> Sequence[Run]:
        return self._begun[stage] if stage in self._begun else self._whole[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)
