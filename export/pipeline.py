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

from ..calibration.gate import OVERALL
from ..calibration.gate_report import GateReport
from ..calibration.passes import replace_resizes
from ..calibration.plan_file import Plan, text_from_plan
from ..calibration.precision import Choice
from ..calibration.quantize import FORMS
from ..calibration.recording import Run
from ..calibration.samples import Sample, read_samples
from ..calibration.score import Score
from ..calibration.session import tensors_from_values
from ..calibration.storage import save
from ..runtime.bundle import Bundle
from ..runtime.errors import CheckpointError, UnknownNameError, UsageError
from ..runtime.language.quantized_folder import ALGORITHMS
from ..runtime.live.memory_tracking import MEMORY_STAGES
from ..runtime.machine import processor_name
from ..runtime.spec import (
    PLAN_FILE,
    REPORT_FILE,
    SCHEMA_VERSION,
    LatencyRow,
    Manifest,
    QualityRow,
    SourceSpec,
    StageSpec,
)
from ..runtime.systems import open_system
from .checkpoint import CONFIG_FILE, Checkpoint, open_checkpoint
from .graph import Stage, trace
from .half_precision import check_half, judge_halves
from .language.stage import STAGE as LANGUAGE
from .language.stage import is_whole, whole_stage
from .libraries import check_libraries
from .observation import calibration_runs, follow, golden_arrays, observe
from .quantization import Quantized, Reference, quantize_stages
from .quantizers import quantizer
from .recipe import FORCEABLE, LANGUAGE_FORMATS, PRECISIONS, ExportRecipe
from .rounding import (
    golden_reading,
    judge_language,
    put_tensorrt_llm,
    readings_of,
    round_language,
)
from .steps import Steps
from .systems import system_module
from .variant import config_asked
from .verify import verify
from .weights import listed
from .wishes import check_wishes

__all__ = ["export"]

SAMPLES_FOLDER = "samples"


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
        UsageError: The system has no language model, and one of some format is asked for.
        SaymaskError: See `check_libraries`, `check_wishes`, `Bundle.write` and `open_engine`.
    """
    module = system_module(recipe.system)
    _check_names(recipe)
    Bundle.check_target(recipe.out)
    checkpoint = _checkpoint(recipe, module)
    pictures = recipe.samples or checkpoint.folder / SAMPLES_FOLDER
    samples = read_samples(pictures, limit=recipe.sample_limit)
    steps = Steps(say)
    with tempfile.TemporaryDirectory() as scratch:
        manifest, graphs = _trace(recipe, checkpoint, module, Path(scratch), steps)
        draft = _write(Path(scratch, "fp32"), manifest, graphs, checkpoint, {})
        is_rounded = LANGUAGE in graphs and not is_whole(recipe.language_format)
        reads_all = is_rounded or recipe.tensorrt_llm is not None
        with (
            steps.step("run", f" {len(samples)} pictures in FP32"),
            closing(open_system(draft, device="cpu", threads=recipe.threads)) as system,
        ):
            reference = observe(system, samples, Path(scratch, "observed"))
            followed = follow(system, samples[0])
            golden = golden_arrays(system, samples, followed)
            readings = readings_of(system, samples if reads_all else samples[:1])
        golden |= golden_reading(draft, readings, threads=recipe.threads)
        _verify(recipe, checkpoint, module, {**reference.runs, **followed}, steps)
        plan, report, scores = _no_plan(recipe, manifest), None, reference.scores
        if is_rounded:
            manifest = round_language(recipe, manifest, graphs, readings, Path(scratch), steps)
            draft = _write(Path(scratch, "rounded"), manifest, graphs, checkpoint, {})
            report, scores = judge_language(recipe, draft, samples, reference, steps)
        if recipe.tensorrt_llm:
            source, folder = module.language_of(checkpoint), Path(scratch, "tensorrt_llm")
            manifest = put_tensorrt_llm(recipe, manifest, graphs, source, readings, folder, steps)
        if recipe.precision != "fp32":
            found = _quantized(recipe, draft, graphs, samples, reference, Path(scratch), steps)
            manifest = _with_choices(manifest, found)
            plan, report, scores = found.plan, found.report, found.scores
            for name, choice in found.choices.items():
                if choice.candidate.plan:
                    graphs[name] = save(choice.candidate.model, Path(scratch, f"{name}.small.onnx"))
        with steps.step("write"):
            manifest = _with_quality(manifest, samples, reference.scores, scores)
            bundle = _write(recipe.out, manifest, graphs, checkpoint, golden, _said(plan, report))
    for line in steps.lines():
        say(line)
    return bundle


def _check_names(recipe: ExportRecipe) -> None:
    if recipe.precision not in PRECISIONS:
        raise UnknownNameError("precision", recipe.precision, PRECISIONS)
    if recipe.language_format not in LANGUAGE_FORMATS:
        raise UnknownNameError(
            "a language model's format", recipe.language_format, LANGUAGE_FORMATS
        )
    if recipe.tensorrt_llm not in (None, *ALGORITHMS):
        raise UnknownNameError("a precision for TensorRT-LLM", recipe.tensorrt_llm, ALGORITHMS)
    if recipe.precision == "fp16":
        check_half(recipe)
    elif recipe.precision != "fp32" and (recipe.target, recipe.precision) not in FORMS:
        known = [target for target, precision in FORMS if precision == recipe.precision]
        raise UnknownNameError(f"the target of {recipe.precision}", recipe.target, known)
    quantizer(recipe)
    if recipe.forced is not None and recipe.forced not in FORCEABLE:
        raise UnknownNameError("a forced precision", recipe.forced, FORCEABLE)


def _checkpoint(recipe: ExportRecipe, module: ModuleType) -> Checkpoint:
    asked = recipe.variant and config_asked(recipe.system, recipe.variant)
    checkpoint = open_checkpoint(recipe.checkpoint or module.MINIATURE, asked or None)
    if checkpoint.config.system != recipe.system:
        raise CheckpointError(
            f"the checkpoint must be of {recipe.system}; {checkpoint.folder / CONFIG_FILE} says "
            f"{checkpoint.config.system!r}; name that system or another checkpoint"
        )
    held = recipe.tensorrt_llm or recipe.language
    has_language = module.language_of(checkpoint) is not None
    if held and not has_language:
        raise UsageError(
            f"--llm must go with a system that has a language model; {recipe.system} has none; "
            f"got {held}; leave it out"
        )
    check_libraries(recipe, has_language=has_language)
    check_wishes(recipe, checkpoint.config.variant)
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
    for remark in module.remarks_on(checkpoint, dict(recipe.switches)):
        steps.say(remark)
    if names := checkpoint.left_out(network):
        steps.say(f"left out what {config.system} has no use for: {listed(names)}")
    stages, graphs = [], {}
    for stage in module.stages(network):
        with steps.step(f"trace {stage.name}"):
            spec, graphs[stage.name] = _trace_stage(stage, folder)
        stages.append(spec)
    language = module.language_of(checkpoint)
    if language is not None:
        whole = recipe.language_format if is_whole(recipe.language_format) else "F16"
        with steps.step(f"convert {LANGUAGE}"):
            spec, graphs[LANGUAGE] = whole_stage(language, whole, folder)
        stages.insert(-1, spec)  # What it says prompts the last stage.
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        system=config.system,
        variant=config.variant,
        precision=recipe.precision,
        target=recipe.target,
        stages=tuple(stages),
        views=module.views_of(checkpoint, dict(recipe.switches)),
        tokenizer=module.tokenizer_of(checkpoint),
        settings=module.settings_of(checkpoint, dict(recipe.switches)),
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
    files: dict[str, bytes | Path] = {**more}
    if manifest.tokenizer:
        files[manifest.tokenizer.file] = checkpoint.vocabulary
    for stage in manifest.stages:
        graph, *beside = graphs[stage.name]
        # A graph names the files beside it, so only its own name is free.
        files |= {stage.file: graph} | {f"stages/{path.name}": path for path in beside}
    return Bundle.write(folder, manifest, files, golden)


def _quantized(
    recipe: ExportRecipe,
    draft: Bundle,
    graphs: Mapping[str, list[Path]],
    samples: Sequence[Sample],
    reference: Reference,
    scratch: Path,
    steps: Steps,
) -> Quantized:
    """Put the graphs that segment pictures into small numbers; their bundle is opened again."""
    variant, small = draft.manifest.variant, scratch / "small"
    small.mkdir()
    with closing(open_system(draft, device="cpu", threads=recipe.threads)) as system:
        wanted = {name: graphs[name][0] for name in reference.runs}
        if recipe.precision == "fp16":
            return judge_halves(recipe, variant, wanted, system, samples, reference, small, steps)
        data = calibration_runs(recipe, draft, system, samples, reference, scratch, steps)
        return quantize_stages(
            recipe, variant, wanted, system, samples, reference, data, small, steps
        )


def _no_plan(recipe: ExportRecipe, manifest: Manifest) -> Plan:
    """Return the plan of a system that stays in FP32."""
    return Plan(system=manifest.system, variant=manifest.variant, target=recipe.target, stages={})


def _said(plan: Plan, report: GateReport | None) -> dict[str, bytes]:
    """Return the files that say what was planned and, if anything was rounded, what it cost."""
    files = {PLAN_FILE: text_from_plan(plan).encode()}
    if report is not None:
        files[REPORT_FILE] = json.dumps(asdict(report), indent=1).encode()
    return files


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
    stages = tuple(_as_chosen(stage, found.choices.get(stage.name)) for stage in manifest.stages)
    return replace(manifest, stages=stages, latency=latency)


def _as_chosen(stage: StageSpec, choice: Choice | None) -> StageSpec:
    if choice is not None:
        return replace(stage, precision=choice.candidate.precision, reason=choice.reason)
    if stage.name in MEMORY_STAGES:
        return replace(stage, reason="no picture can judge what follows masks")
    return stage
