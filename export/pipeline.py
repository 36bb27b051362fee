"""A checkpoint's way: open, load, trace, verify, calibrate, choose, gate, write."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType, ModuleType

import numpy as np

from ..calibration.frames import calibration_samples, read_phrases
from ..calibration.gate import OVERALL, score_samples
from ..calibration.passes import replace_resizes
from ..calibration.plan_file import Plan, text_from_plan
from ..calibration.quantize import FORMS
from ..calibration.recording import Recorder, Run
from ..calibration.samples import Sample, read_samples
from ..calibration.score import Score
from ..calibration.session import tensors_from_values
from ..calibration.storage import save
from ..runtime.bundle import Bundle
from ..runtime.errors import CheckpointError, UnknownNameError
from ..runtime.live.memory_tracking import MEMORY_STAGES
from ..runtime.machine import processor_name
from ..runtime.masks import Masks
from ..runtime.prompt import prompts_from
from ..runtime.spec import (
    PLAN_FILE,
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
from .quantization import Quantized, Reference, quantize_stages
from .recipe import FORCEABLE, PRECISIONS, ExportRecipe
from .steps import Steps
from .systems import system_module
from .verify import verify

__all__ = ["export"]

SAMPLES_FOLDER = "samples"
REPORT_FILE = "report.json"
"""In a bundle of small numbers: the gate's `GateReport`."""
GOLDEN_PHRASES = 2


def export(recipe: ExportRecipe, say: Callable[[str], None]) -> Bundle:
    """Turn a checkpoint into a bundle; killed at any moment it leaves the old bundle or none.

    Args:
        recipe: What to do.
        say: Is told each step in one line, and at the end what every step took.

    Raises:
        CheckpointError: The checkpoint does not fit the network.
        EngineError: A graph does not agree with PyTorch.
        GateError: The quantized masks lose more than `recipe.max_iou_drop`, whatever is lifted.
        InputError: The recipe's plan cannot be followed.
        SourceError: The samples cannot be read.
        UnknownNameError: There is no such system or precision.
        SaymaskError: See `Bundle.write` and `engine.open_engine`.
    """
    module = system_module(recipe.system)
    _check_names(recipe)
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
            followed = _follow(system, samples[0])
            golden = _golden(system, samples[0], followed)
        _verify(recipe, checkpoint, module, {**reference.runs, **followed}, steps)
        manifest = _with_quality(manifest, samples, reference.scores, reference.scores)
        files = {PLAN_FILE: text_from_plan(_no_plan(recipe, manifest)).encode()}
        if recipe.precision != "fp32":
            with closing(open_system(draft, device="cpu", threads=recipe.threads)) as system:
                data = _calibration_runs(recipe, system, reference, Path(scratch), steps)
                wanted = {name: graphs[name][0] for name in reference.runs}
                found = quantize_stages(
                    recipe, manifest.variant, wanted, system, samples, reference, data, steps
                )
            manifest = _with_quality(manifest, samples, reference.scores, found.scores)
            manifest, files = _with_choices(manifest, found), _said(found)
            for name, choice in found.choices.items():
                graphs[name] = save(choice.candidate.model, Path(scratch, f"{name}.small.onnx"))
        with steps.step("write"):
            bundle = _write(recipe.out, manifest, graphs, checkpoint, golden, files)
    for line in steps.lines():
        say(line)
    return bundle


def _check_names(recipe: ExportRecipe) -> None:
    if recipe.precision not in PRECISIONS:
        raise UnknownNameError("precision", recipe.precision, PRECISIONS)
    if recipe.precision != "fp32" and (recipe.target, recipe.precision) not in FORMS:
        known = [target for target, precision in FORMS if precision == recipe.precision]
        raise UnknownNameError(f"the target of {recipe.precision}", recipe.target, known)
    if recipe.forced is not None and recipe.forced not in FORCEABLE:
        raise UnknownNameError("a forced precision", recipe.forced, FORCEABLE)


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
        target=recipe.target,
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
    runs: Mapping[str, Sequence[Run]],
    steps: Steps,
) -> None:
    """Hold the graphs against PyTorch, loaded again: the engines had the memory in between."""
    for stage in module.stages(module.load(checkpoint, dict(recipe.switches))):
        with steps.step(f"verify {stage.name}"):
            worst = verify(stage, runs[stage.name][:3])
        steps.say(f"verified {stage.name}: within {worst:.1e} of PyTorch")


def _write(
    folder: Path,
    manifest: Manifest,
    graphs: Mapping[str, Sequence[Path]],
    checkpoint: Checkpoint,
    golden: Mapping[str, np.ndarray],
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> Bundle:
    files: dict[str, bytes | Path] = {manifest.tokenizer.file: checkpoint.vocabulary, **more}
    for stage in manifest.stages:
        graph, *beside = graphs[stage.name]
        # A graph names the files beside it, so only its own name is free.
        files |= {stage.file: graph} | {f"stages/{path.name}": path for path in beside}
    return Bundle.write(folder, manifest, files, golden)


def _no_plan(recipe: ExportRecipe, manifest: Manifest) -> Plan:
    """Return the plan of a system that stays in FP32."""
    return Plan(system=manifest.system, variant=manifest.variant, target=recipe.target, stages={})


def _observe(system: System, samples: Sequence[Sample]) -> Reference:
    recorder = Recorder()
    scores, masks = score_samples(system.with_engines(recorder.watch), samples)
    runs = {name: runs for name, runs in recorder.runs.items() if name not in MEMORY_STAGES}
    return Reference(runs, scores, masks)


def _follow(system: System, sample: Sample) -> dict[str, list[Run]]:
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


def _said(found: Quantized) -> dict[str, bytes]:
    """Return the files that say what was planned and what it cost."""
    return {
        PLAN_FILE: text_from_plan(found.plan).encode(),
        REPORT_FILE: json.dumps(asdict(found.report), indent=1).encode(),
    }


def _calibration_runs(
    recipe: ExportRecipe, system: System, reference: Reference, scratch: Path, steps: Steps
) -> Mapping[str, Sequence[Run]]:
    """Run what ranges are taken from through the FP32 engines; the samples, if nothing is named."""
    if recipe.calib is None:
        return reference.runs
    phrases = read_phrases(recipe.calib_phrases) if recipe.calib_phrases else ()
    samples = calibration_samples(recipe.calib, recipe.calib_images, phrases=phrases)
    recorder = Recorder(scratch / "runs")
    with steps.step("calibrate", f" on {len(samples)} pictures of {recipe.calib}"):
        score_samples(system.with_engines(recorder.watch), samples)
    return recorder.runs


def _golden(
    system: System, sample: Sample, followed: Mapping[str, list[Run]]
) -> dict[str, np.ndarray]:
    """Return a frame, its phrases and what FP32 makes of them, stage by stage."""
    recorder = Recorder()
    texts = sample.texts[:GOLDEN_PHRASES]
    system.with_engines(recorder.watch).segment(sample.frame, prompts_from(texts))
    golden = {"frame": sample.frame, "phrases": np.array(texts)}
    for name, (run,) in {**recorder.runs, **followed}.items():
        for arrays in (run.inputs, run.outputs):
            golden |= {f"{name}/{tensor}": array for tensor, array in arrays.items()}
    return golden


def _with_quality(
    manifest: Manifest,
    samples: Sequence[Sample],
    fp32: Mapping[str, Score],
    scores: Mapping[str, Score],
) -> Manifest:
    """Return the manifest with what was scored."""
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
    return replace(manifest, quality=quality)


def _with_choices(manifest: Manifest, found: Quantized) -> Manifest:
    """Return the manifest with what was decided and timed."""
    latency: tuple[LatencyRow, ...] = tuple(
        row for name, choice in found.choices.items() for row in choice.latency(name)
    )
    stages = tuple(
        replace(
            stage,
            precision=found.choices[stage.name].candidate.precision,
            reason=found.choices[stage.name].reason,
        )
        if stage.name in found.choices
        else replace(stage, reason="no picture can judge what follows masks")
        for stage in manifest.stages
    )
    return replace(manifest, stages=stages, latency=latency)
