"""The accuracy gate: the masks of quantized stages beside FP32's and the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

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
            scores, found = score_samples(swapped, self.samples, self.masks)
        loss = Loss(
            lost=points_lost(self.scores, scores),
            apart=points_apart(self.masks, found),
        )
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
    found = [system.segment(each.frame, prompts_from(list(each.texts))).boolean for each in samples]
    wanted = reference or found
    truths = [
        known if sample.masks is None else sample.masks
        for sample, known in zip(samples, wanted, strict=True)
    ]
    triples = [
        (task, mask, truth)
        for sample, masks, known in zip(samples, found, truths, strict=True)
        for task, mask, truth in zip(sample.tasks, masks, known, strict=True)
    ]
    scores = score_tasks(triples)
    return scores | {OVERALL: sum(scores.values(), Score())}, found


def points_lost(fp32: Mapping[str, Score], other: Mapping[str, Score]) -> float:
    """Return how many points of gIoU (0 to 100) all phrases together lose against FP32."""
    return 100 * (fp32[OVERALL].giou - other[OVERALL].giou)


def points_apart(masks: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Return 100 less the mean IoU, in points, of masks (phrases, H, W) bool of each sample."""
    pairs = sum(
        (
            score_mask(one, other)
            for one_sample, other_sample in zip(masks, others, strict=True)
            for one, other in zip(one_sample, other_sample, strict=True)
        ),
        Score(),
    )
    return 100 * (1 - pairs.giou)


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
