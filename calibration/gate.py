"""The accuracy gate: the masks of quantized stages beside FP32's and the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import onnx

from ..runtime.engine import Engine
from ..runtime.prompt import prompts_from
from ..runtime.spec import StageSpec
from ..runtime.systems import System
from .cache import data_sha256
from .hosts import ONNXRUNTIME, Host
from .recording import Run
from .samples import Sample
from .score import Score, score_mask, score_tasks
from .turns import Turns

__all__ = [
    "OVERALL",
    "Judge",
    "Judged",
    "Loss",
    "points_apart",
    "points_lost",
    "samples_sha256",
    "score_samples",
    "with_runs",
    "with_stages",
]

OVERALL = "all"
"""Task name under which all phrases are scored together."""
_Triple = tuple[str, np.ndarray, np.ndarray]
"""A task, a mask and what it should be, both (H, W) bool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What quantized stages cost, in points of gIoU from 0 to 100."""

    lost: float
    """What all phrases together lose against the truth, or FP32's masks where there is none;
    negative where they gain."""
    apart: float
    """How far their masks are from FP32's: 100 less the mean IoU of both. Never negative, and
    finer than `lost`, in which errors cancel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What became of the masks."""

    loss: Loss
    """What all phrases together cost."""
    scores: Mapping[str, Score]
    """By task, see `score_samples`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Puts quantized graphs into a system and looks at the masks."""

    system: System
    """In FP32; best `with_runs`, so that only changed stages are computed."""
    samples: Sequence[Sample]
    """What is segmented."""
    scores: Mapping[str, Score]
    """FP32's, from `score_samples`."""
    masks: Sequence[np.ndarray]
    """Likewise."""
    threads: int
    """Threads of one operator."""
    host: Host = ONNXRUNTIME
    """What runs the graphs; see `hosts.host_of`."""

    def __call__(self, models: Mapping[str, onnx.ModelProto]) -> Loss:
        """Return the loss alone; see `scored`."""
        return self.scored(models).loss

    def scored(self, models: Mapping[str, onnx.ModelProto]) -> Judged:
        """Judge stages by name as these graphs, the others as FP32.

        Raises:
            EngineError: The host refuses a graph.
        """
        turns = Turns()
        with ExitStack() as stack:
            engines = {
                name: stack.enter_context(
                    closing(turns.take(model, partial(self.host.open, model, threads=self.threads)))
                )
                for name, model in models.items()
            }
            swapped = with_stages(self.system, engines)
            return self._compared(swapped)

    def _compared(self, system: System) -> Judged:
        """Look at the masks of one sample after the other and keep none."""
        agreements: list[Score] = []

        def triples() -> Iterator[_Triple]:
            for sample, known in zip(self.samples, self.masks, strict=True):
                found = _segmented(system, sample)
                agreements.extend(_pairs(found, known))
                yield from _triples(sample, found, known)

        scores = _scores(triples())
        loss = Loss(lost=points_lost(self.scores, scores), apart=_apart(agreements))
        return Judged(loss=loss, scores=scores)


def score_samples(
    system: System, samples: Sequence[Sample], reference: Sequence[np.ndarray] | None = None
) -> tuple[dict[str, Score], list[np.ndarray]]:
    """Segment samples and score the masks.

    Args:
        system: What segments them.
        samples: Frames with phrases.
        reference: Masks to compare with where a sample has no truth; without them its own masks
            count as right, as FP32's do.

    Returns:
        Task -> score, with `OVERALL`, and the masks (phrases, H, W) bool of each sample.
    """
    found = [_segmented(system, sample) for sample in samples]
    all_three = zip(samples, found, reference or found, strict=True)
    return _scores(chain.from_iterable(_triples(*each) for each in all_three)), found


def _segmented(system: System, sample: Sample) -> np.ndarray:
    """Return a sample's masks, (phrases, H, W) bool."""
    return system.segment(sample.frame, prompts_from(list(sample.texts))).boolean


def _triples(sample: Sample, found: np.ndarray, known: np.ndarray) -> Iterator[_Triple]:
    """Yield each mask found, between its task and the truth or, without any, the known one."""
    yield from zip(
        sample.tasks, found, known if sample.masks is None else sample.masks, strict=True
    )


def _scores(triples: Iterable[_Triple]) -> dict[str, Score]:
    scores = score_tasks(triples)
    return scores | {OVERALL: sum(scores.values(), Score())}


def points_lost(fp32: Mapping[str, Score], other: Mapping[str, Score]) -> float:
    """Return how many points of gIoU (0 to 100) all phrases together lose against FP32."""
    return 100 * (fp32[OVERALL].giou - other[OVERALL].giou)


def points_apart(masks: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Return 100 less the mean IoU, in points, of masks (phrases, H, W) bool of each sample."""
    return _apart(chain.from_iterable(_pairs(*each) for each in zip(masks, others, strict=True)))


def _pairs(masks: np.ndarray, others: np.ndarray) -> Iterator[Score]:
    """Score masks (phrases, H, W) bool of one sample against others."""
    return (score_mask(one, other) for one, other in zip(masks, others, strict=True))


def _apart(agreements: Iterable[Score]) -> float:
    return 100 * (1 - sum(agreements, Score()).giou)


def samples_sha256(samples: Sequence[Sample]) -> str:
    """Return what tells these samples from others, in hexadecimal."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr((sample.frame.shape, sample.texts, sample.tasks)).encode())
        digest.update(sample.frame.tobytes())
        digest.update(b"" if sample.masks is None else np.packbits(sample.masks).tobytes())
    return digest.hexdigest()


def with_runs(
    system: System, runs: Mapping[str, Sequence[Run]], reopen: Callable[[StageSpec], Engine]
) -> System:
    """Return `system` with stages that answer inputs they met before from memory.

    Args:
        system: What made the runs; engines that remember are closed.
        runs: Stage name -> what it computed, from `recording.Recorder`; a stage without is left.
        reopen: Opens a stage's engine again, if it meets inputs that it has not met.
    """

    def remembering(engine: Engine) -> Engine:
        stage = engine.stage
        if stage.name not in runs:
            return engine
        engine.close()
        return _Remembering(stage, engine.device, runs[stage.name], reopen)

    return system.with_engines(remembering)


class _Remembering:
    """What a stage has computed, and its engine once that is not enough."""

    def __init__(
        self,
        stage: StageSpec,
        device: str,
        runs: Sequence[Run],
        reopen: Callable[[StageSpec], Engine],
    ) -> None:
        self.stage, self.device, self._reopen = stage, device, reopen
        self._outputs = {data_sha256([run.inputs]): run.outputs for run in runs}
        self._engine: Engine | None = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        known = self._outputs.get(data_sha256([inputs]))
        if known is not None:
            return dict(known)
        self._engine = self._engine or self._reopen(self.stage)
        return self._engine.run(inputs)

    def close(self) -> None:
        if self._engine:
            self._engine.close()
            self._engine = None


def with_stages(system: System, engines: Mapping[str, Engine]) -> System:
    """Return `system` with some of its stages computed by other engines."""
    return system.with_engines(lambda engine: engines.get(engine.stage.name, engine))
