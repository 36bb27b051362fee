"""A checkpoint's way: open, load, trace, verify, calibrate, choose, gate, write."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType

import numpy as np
import onnx

from ..calibration import precision, quantize
from ..calibration.gate import OVERALL, points_lost, score_samples, with_stages
from ..calibration.passes import replace_resizes
from ..calibration.precision import Choice
from ..calibration.quantize import Candidate
from ..calibration.recording import Recorder, Run
from ..calibration.samples import Sample, read_samples
from ..calibration.score import Score
from ..calibration.session import open_model, tensors_from_values
from ..calibration.storage import save
from ..runtime.bundle import Bundle
from ..runtime.errors import CheckpointError, GateError, UnknownNameError
from ..runtime.machine import processor_name
from ..runtime.prompt import prompts_from
from ..runtime.spec import (
    SCHEMA_VERSION,
    LatencyRow,
    Manifest,
    QualityRow,
    SourceSpec,
    StageSpec,
    TokenizerSpec,
)
from ..runtime.systems import System, open_system
from .checkpoint import CONFIG_FILE, VOCABULARY_FILE, Checkpoint, open_checkpoint
from .graph import Stage, trace
from .recipe import FORCEABLE, PRECISIONS, ExportRecipe
from .steps import Steps
from .systems import system_module
from .verify import verify

__all__ = ["export"]

SAMPLES_FOLDER = "samples"
PLAN_FILE = "plan.json"
"""In the bundle: what each weighted node computes in, and why."""
GOLDEN_PHRASES = 2
LEAST_COSINE = 0.98
"""A stage whose outputs are further from FP32's is not worth asking the masks."""


@dataclass(frozen=True, slots=True)
class _Reference:
    """The FP32 system on the samples: what every candidate is held against."""

    runs: Mapping[str, list[Run]]
    scores: dict[str, Score]
    masks: list[np.ndarray]


def export(recipe: ExportRecipe, say: Callable[[str], None]) -> Bundle:
    """Turn a checkpoint into a bundle; killed at any moment it leaves the old bundle or none.

    Args:
        recipe: What to do.
        say: Is told each step in one line, and at the end what every step took.

    Raises:
        CheckpointError: The checkpoint does not fit the network.
        EngineError: A graph does not agree with PyTorch.
        GateError: The quantized masks lose more than `recipe.max_iou_drop`.
        SourceError: The samples cannot be read.
        UnknownNameError: There is no such system or precision.
        SaymaskError: See `Bundle.write` and `engine.open_engine`.
    """
    module = system_module(recipe.system)
    if recipe.precision not in PRECISIONS:
        raise UnknownNameError("precision", recipe.precision, PRECISIONS)
    if recipe.forced is not None and recipe.forced not in FORCEABLE:
        raise UnknownNameError("a forced precision", recipe.forced, FORCEABLE)
    Bundle.check_target(recipe.out)
    checkpoint = _checkpoint(recipe, module)
    samples = read_samples(
        recipe.samples or checkpoint.folder / SAMPLES_FOLDER, limit=recipe.sample_limit
    )
    steps = Steps(say)
    with tempfile.TemporaryDirectory() as scratch:
        manifest, graphs = _trace(recipe, checkpoint, module, Path(scratch), steps)
        draft = _write(Path(scratch, "fp32"), manifest, graphs, checkpoint, {})
        with (
            steps.step("run", f" {len(samples)} pictures in FP32"),
            closing(open_system(draft, device="cpu", threads=recipe.threads)) as system,
        ):
            reference = _observe(system, samples)
            golden = _golden(system, samples[0])
        _verify(recipe, checkpoint, module, reference, steps)
        choices, scores = {}, reference.scores
        if recipe.precision == "int8":
            with closing(open_system(draft, device="cpu", threads=recipe.threads)) as system:
                choices = _choose(recipe, graphs, system, samples, reference, steps)
                scores = _gate(recipe, choices, system, samples, reference)
        manifest = _report(manifest, samples, reference.scores, scores, choices)
        for name, choice in choices.items():
            graphs[name] = save(choice.candidate.model, Path(scratch, f"{name}.int8.onnx"))
        with steps.step("write"):
            bundle = _write(recipe.out, manifest, graphs, checkpoint, golden, _plan(choices))
    for line in steps.lines():
        say(line)
    return bundle


def _checkpoint(recipe: ExportRecipe, module: ModuleType) -> Checkpoint:
    checkpoint = open_checkpoint(recipe.checkpoint or module.MINIATURE)
    if checkpoint.config.system != recipe.system:
        raise CheckpointError(
            f"the checkpoint must be of {recipe.system}; {checkpoint.folder / CONFIG_FILE} says "
            f"{checkpoint.config.system!r}; name that system or another checkpoint"
        )
    return checkpoint


def _trace(
    recipe: ExportRecipe, checkpoint: Checkpoint, module: ModuleType, folder: Path, steps: Steps
) -> tuple[Manifest, dict[str, list[Path]]]:
    """Trace every stage into `folder`, one in memory at a time.

    Returns:
        A manifest without figures, and the files of each stage's graph, the graph itself first.
    """
    config = checkpoint.config
    with steps.step("load", f" {checkpoint.name}: {config.system} {config.variant}"):
        network = module.load(checkpoint, dict(recipe.switches))
    stages, graphs = [], {}
    for stage in module.stages(network):
        with steps.step(f"trace {stage.name}"):
            spec, graphs[stage.name] = _trace_stage(stage, folder)
        stages.append(spec)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        system=config.system,
        variant=config.variant,
        precision=recipe.precision,
        target="cpu",
        stages=tuple(stages),
        views=module.views_of(checkpoint, dict(recipe.switches)),
        tokenizer=TokenizerSpec(
            kind=module.TOKENIZER,
            file=VOCABULARY_FILE,
            max_tokens=config.max_tokens,
            rows=module.token_rows(checkpoint),
        ),
        templates=module.TEMPLATES,
        mask_threshold=module.MASK_THRESHOLD,
        source=SourceSpec(name=checkpoint.name, sha256=checkpoint.sha256(), license=config.license),
        quality=(),
        latency=(),
        machine=processor_name(),
        files=(),
    )
    return manifest, graphs


def _trace_stage(stage: Stage, folder: Path) -> tuple[StageSpec, list[Path]]:
    # A function of its own, so that the graph is gone when the next one is traced.
    graph = replace_resizes(trace(stage))
    spec = StageSpec(
        name=stage.name,
        file=f"stages/{stage.name}.onnx",
        inputs=tensors_from_values(graph.graph.input),
        outputs=tensors_from_values(graph.graph.output),
        precision="fp32",
        reason="fp32 was asked for",
    )
    return spec, save(graph, folder / f"{stage.name}.onnx")


def _verify(
    recipe: ExportRecipe,
    checkpoint: Checkpoint,
    module: ModuleType,
    reference: _Reference,
    steps: Steps,
) -> None:
    """Hold the graphs against PyTorch, loaded again: the engines had the memory in between."""
    for stage in module.stages(module.load(checkpoint, dict(recipe.switches))):
        with steps.step(f"verify {stage.name}"):
            worst = verify(stage, reference.runs[stage.name][:3])
        steps.say(f"verified {stage.name}: within {worst:.1e} of PyTorch")


def _write(
    folder: Path,
    manifest: Manifest,
    graphs: Mapping[str, Sequence[Path]],
    checkpoint: Checkpoint,
    golden: Mapping[str, np.ndarray],
    plan: Mapping[str, Mapping[str, Mapping[str, str]]] = MappingProxyType({}),
) -> Bundle:
    files: dict[str, bytes | Path] = {
        manifest.tokenizer.file: checkpoint.vocabulary,
        PLAN_FILE: json.dumps(plan, default=dict, indent=1).encode(),
    }
    for stage in manifest.stages:
        graph, *beside = graphs[stage.name]
        # A graph names the files beside it, so only its own name is free.
        files |= {stage.file: graph} | {f"stages/{path.name}": path for path in beside}
    return Bundle.write(folder, manifest, files, golden)


def _plan(choices: Mapping[str, Choice]) -> dict[str, dict[str, dict[str, str]]]:
    """Return stage -> weighted node -> its precision and why, for the stages that hold INT8."""
    return {
        name: {node: asdict(plan) for node, plan in choice.candidate.plan.items()}
        for name, choice in choices.items()
        if choice.candidate.plan
    }


def _observe(system: System, samples: Sequence[Sample]) -> _Reference:
    recorder = Recorder()
    scores, masks = score_samples(system.with_engines(recorder.watch), samples)
    return _Reference(recorder.runs, scores, masks)


def _choose(
    recipe: ExportRecipe,
    graphs: Mapping[str, Sequence[Path]],
    system: System,
    samples: Sequence[Sample],
    reference: _Reference,
    steps: Steps,
) -> dict[str, Choice]:
    """Decide each stage's precision."""
    choices = {}
    for name, (graph, *_) in graphs.items():
        feeds = [run.inputs for run in reference.runs[name]]
        found = quantize.candidates(onnx.load(graph), feeds)

        def judge(candidate: Candidate, name: str = name) -> str:
            engine = open_model(candidate.model, threads=recipe.threads)
            swapped = with_stages(system, {name: engine})
            scores, _ = score_samples(swapped, samples, reference.masks)
            lost = points_lost(reference.scores, scores)
            return "" if lost <= recipe.max_iou_drop else f"loses {lost:.2f} gIoU points"

        precisions = {each.precision for each in found}
        with steps.step(f"choose {name}"):
            choices[name] = precision.choose(
                found,
                feeds,
                floor=LEAST_COSINE,
                threads=1,  # Timed by the thread's own processor time: steady on a busy machine.
                judge=judge,
                forced=recipe.forced if recipe.forced in precisions else None,
            )
        steps.say(f"chose {name}: {choices[name].reason}")
    return choices


def _gate(
    recipe: ExportRecipe,
    choices: Mapping[str, Choice],
    system: System,
    samples: Sequence[Sample],
    reference: _Reference,
) -> dict[str, Score]:
    """Score the masks of all chosen stages together, as each was judged among FP32 ones alone."""
    engines = {
        name: open_model(choice.candidate.model, threads=recipe.threads)
        for name, choice in choices.items()
    }
    scores, _ = score_samples(with_stages(system, engines), samples, reference.masks)
    lost = points_lost(reference.scores, scores)
    if not lost <= recipe.max_iou_drop:
        taken = ", ".join(
            f"{name} {choice.candidate.precision}" for name, choice in choices.items()
        )
        raise GateError(
            f"the masks must lose at most {recipe.max_iou_drop:g} gIoU points against FP32; they "
            f"lose {lost:.2f} with {taken}; allow more with --max-iou-drop or give more --samples"
        )
    return scores


def _golden(system: System, sample: Sample) -> dict[str, np.ndarray]:
    """Return a frame, its phrases and what FP32 makes of them, stage by stage."""
    recorder = Recorder()
    texts = sample.texts[:GOLDEN_PHRASES]
    system.with_engines(recorder.watch).segment(sample.frame, prompts_from(texts))
    golden = {"frame": sample.frame, "phrases": np.array(texts)}
    for name, (run,) in recorder.runs.items():
        for arrays in (run.inputs, run.outputs):
            golden |= {f"{name}/{tensor}": array for tensor, array in arrays.items()}
    return golden


def _report(
    manifest: Manifest,
    samples: Sequence[Sample],
    fp32: Mapping[str, Score],
    scores: Mapping[str, Score],
    choices: Mapping[str, Choice],
) -> Manifest:
    """Return the manifest with what was decided and measured."""
    has_truth = all(sample.masks is not None for sample in samples)
    quality = tuple(
        QualityRow(
            task=task,
            metric="gIoU",
            data="samples" if has_truth else "samples, FP32 masks as truth",
            phrase_count=scores[task].samples,
            fp32=fp32[task].giou,
            this=scores[task].giou,
        )
        for task in (*sorted(set(scores) - {OVERALL}), OVERALL)
    )
    latency: tuple[LatencyRow, ...] = tuple(
        row for name, choice in choices.items() for row in choice.latency(name)
    )
    stages = tuple(
        replace(
            stage,
            precision=choices[stage.name].candidate.precision,
            reason=choices[stage.name].reason,
        )
        if stage.name in choices
        else stage
        for stage in manifest.stages
    )
    return replace(manifest, stages=stages, quality=quality, latency=latency)
