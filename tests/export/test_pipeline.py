import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saymask.calibration.samples import Sample, read_samples
from saymask.calibration.session import open_model
from saymask.export import pipeline
from saymask.export.checkpoint import open_checkpoint
from saymask.export.models.evf_sam import EvfSam
from saymask.export.pipeline import export
from saymask.export.recipe import ExportRecipe
from saymask.export.steps import Steps
from saymask.export.systems import system_module
from saymask.export.systems.evf_sam import load, stages, views
from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.runtime.errors import (
    CheckpointError,
    GateError,
    OutputError,
    UnknownNameError,
    UsageError,
)
from saymask.runtime.geometry import back, fit
from saymask.runtime.machine import processor_name
from saymask.runtime.segmenter import Segmenter
from saymask.runtime.tokenizer import XlmRoberta

from . import without_torch

STAGES = ("image", "prompt", "mask")


@pytest.fixture
def recipe(tiny_checkpoint, tmp_path) -> ExportRecipe:
    """How the tiny checkpoint becomes an INT8 bundle; nothing is lost that counts."""
    return ExportRecipe(
        system="evf-sam",
        out=tmp_path / "tiny-int8",
        checkpoint=str(tiny_checkpoint),
        precision="int8",
        max_iou_drop=100,
        threads=1,
    )


@pytest.fixture(scope="session")
def sample(tiny_checkpoint) -> Sample:
    return read_samples(tiny_checkpoint / "samples")[0]


@pytest.fixture(scope="session")
def network(tiny_checkpoint) -> EvfSam:
    """The network as the checkpoint holds it, its matrices rounded to FP16."""
    return load(open_checkpoint(tiny_checkpoint))


def test_a_killed_export_leaves_no_bundle(killed_export):
    (left,) = killed_export.left
    assert left.startswith(".tiny-fp32.")
    assert left.endswith(".partial")


def test_an_export_says_its_steps_and_nothing_else(killed_export):
    lines = killed_export.log.splitlines()
    assert lines[0] == "saymask: load tiny: evf-sam tiny"
    assert [line.split()[2].strip(":") for line in lines if " trace " in line] == list(STAGES)
    assert [line for line in lines if " switches: " in line] == [
        "saymask: switches: preprocess=pad-float, beit_view=smooth, mask_choice=single, as saymask "
        "trains tiny"
    ]
    assert [line for line in lines if " verified mask: within " in line]
    assert not [line for line in lines if not line.startswith("saymask: ")]


@pytest.mark.usefixtures("traced")
def test_weights_that_no_stage_has_a_use_for_are_named(recipe, tiny_checkpoint, tmp_path):
    leftover = "mm_extractor.beit3.mlm_head.weight"
    folder, said = shutil.copytree(tiny_checkpoint, tmp_path / "tiny"), []
    for names in ((), (leftover,)):
        state = load_file(folder / "model.safetensors") | dict.fromkeys(names, torch.zeros(1))
        save_file(state, folder / "model.safetensors")
        checkpoint, module = open_checkpoint(folder), system_module("evf-sam")
        pipeline._trace(recipe, checkpoint, module, tmp_path, Steps(said.append))
    assert [line for line in said if "left out" in line] == [
        f"left out what evf-sam has no use for: {leftover}"
    ]


def test_a_later_export_works_and_sweeps_up(fp32_bundle):
    assert [path.name for path in fp32_bundle.folder.parent.iterdir()] == ["tiny-fp32"]


def test_the_manifest_says_what_it_is(fp32_bundle, tiny_checkpoint, tiny_spec):
    manifest = fp32_bundle.manifest
    assert (manifest.system, manifest.variant, manifest.precision) == ("evf-sam", "tiny", "fp32")
    assert [stage.name for stage in manifest.stages] == list(STAGES)
    assert {(stage.precision, stage.reason) for stage in manifest.stages} == {
        ("fp32", "fp32 was asked for")
    }
    assert manifest.views == views(tiny_spec)
    assert manifest.settings == (
        ("preprocess", "pad-float"), ("beit_view", "smooth"), ("mask_choice", "single"),
        ("told_by", "saymask trains tiny"),
    )  # fmt: skip
    assert dict(manifest.templates) == {"semantic": "[semantic] {phrase}"}
    assert (manifest.tokenizer.kind, manifest.tokenizer.max_tokens) == ("xlm-roberta", 48)
    source = manifest.source
    assert (source.name, source.license) == ("tiny", "Apache-2.0")
    assert source.sha256 == open_checkpoint(tiny_checkpoint).sha256()
    assert manifest.machine == processor_name()
    assert not manifest.latency


def test_the_report_counts_the_phrases_of_each_task(fp32_bundle, tiny_checkpoint):
    samples = read_samples(tiny_checkpoint / "samples")
    rows = {row.task: row for row in fp32_bundle.manifest.quality}
    assert list(rows) == ["semantic", "single", "all"]
    assert rows["all"].phrase_count == sum(len(each.texts) for each in samples)
    assert rows["single"].phrase_count == sum(each.tasks.count("single") for each in samples)
    for row in rows.values():
        assert (row.metric, row.data) == ("gIoU", "samples")
        assert 0 < row.this == row.fp32 < 1


def test_a_bundle_keeps_no_path_of_the_machine_it_was_made_on(fp32_bundle):
    home = str(Path(torch.__file__).parents[1]).encode()
    for path in fp32_bundle.folder.rglob("*.*"):
        assert home not in path.read_bytes(), path


def test_a_weight_is_in_one_graph_alone(graphs, tiny_network):
    weights = {
        name: {each.name for each in graph.graph.initializer if np.prod(each.dims) > 256}
        for name, graph in graphs.items()
    }
    assert not any("visual_model" in name for name in weights["prompt"])
    state = tiny_network.state_dict()
    held = sum(len(each.raw_data) for graph in graphs.values() for each in graph.graph.initializer)
    assert held < 1.2 * sum(value.numel() * 4 for value in state.values())


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("tokens", [3, 48])
@torch.no_grad()
def test_phrases_and_tokens_really_vary(graphs, network, count, tokens):
    generator = np.random.default_rng(0)
    _, prompt, mask = stages(network)
    token_ids = generator.integers(4, 64, (count, tokens))
    token_ids[0, 2:] = XlmRoberta.PAD
    image = generator.normal(size=prompt.examples["image"].shape).astype(np.float32)
    feed = {"image": image, "token_ids": token_ids}
    found = open_model(graphs["prompt"], threads=1).run(feed)
    eager = prompt.module(*map(torch.from_numpy, feed.values())).numpy()
    np.testing.assert_allclose(found["prompt_embedding"], eager, atol=1e-5)
    embedding = generator.normal(size=mask.examples["image_embedding"].shape).astype(np.float32)
    feed = {**found, "image_embedding": embedding}
    found = open_model(graphs["mask"], threads=1).run(feed)
    for name, expected in zip(
        mask.outputs, mask.module(*map(torch.from_numpy, feed.values())), strict=True
    ):
        np.testing.assert_allclose(found[name], expected.numpy(), atol=1e-5)
    assert len(found["logits"]) == count


@torch.no_grad()
def test_the_masks_are_those_of_the_network(fp32_bundle, network, tiny_checkpoint, sample):
    sam, beit = views(network.spec)
    sam_view, placement = fit(sample.frame, sam)
    beit_view, _ = fit(sample.frame, beit)
    tokenizer = XlmRoberta(tiny_checkpoint / "sentencepiece.model", 48)
    token_ids = torch.from_numpy(tokenizer.batch(sample.texts))
    features = network.visual_model.encode(torch.from_numpy(sam_view))
    logits = network(features, torch.from_numpy(beit_view), token_ids)
    expected, _ = back(logits[:, 0].numpy(), placement, threshold=0.0)
    found = Segmenter.open(fp32_bundle.folder, device="cpu").segment(sample.frame, sample.texts)
    assert 0.02 < expected.mean() < 0.98
    assert (found.boolean == expected).mean() > 0.999


def test_its_golden_arrays_replay(fp32_bundle, sample, capsys):
    golden = fp32_bundle.golden()
    assert (golden["frame"] == sample.frame).all()
    assert tuple(golden["phrases"]) == sample.texts[:2]
    assert golden["mask/logits"].shape == (2, 1, 48, 64)
    assert (golden["mask/prompt_embedding"] == golden["prompt/prompt_embedding"]).all()
    assert main(["check", str(fp32_bundle.folder), "--device", "cpu"]) == 0
    assert "differs" not in capsys.readouterr().out


def test_it_segments_without_torch_onnx_and_the_floors_above(fp32_bundle, sample, tmp_path):
    found = Segmenter.open(fp32_bundle.folder, device="cpu").segment(
        sample.frame, without_torch.TEXTS
    )
    assert without_torch.segment(fp32_bundle.folder, sample.frame, tmp_path) == (
        *found.boolean.shape, *found.boolean.sum((1, 2)),
    )  # fmt: skip


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("forced", "stages_forced"),
    [("int8-static", ("image", "prompt", "mask")), ("int8-dynamic", ("prompt", "mask"))],
)
def test_int8_is_reported_stage_by_stage(recipe, forced, stages_forced, capsys):
    said = []
    bundle = export(replace(recipe, forced=forced), said.append)
    assert Bundle.read(recipe.out).manifest == bundle.manifest
    assert bundle.manifest.precision == "int8"
    for name in STAGES:
        stage = bundle.stage(name)
        assert f"chose {name}: {stage.reason}" in said
        if name in stages_forced:
            assert stage.precision == forced
            assert stage.reason.startswith(f"{forced} was asked for; {forced} takes ")
        rows = [row for row in bundle.manifest.latency if row.stage == name]
        assert rows[0].precision == "fp32"
        assert [row.precision for row in rows if row.is_taken] == [stage.precision]
        assert all(row.median_ms > 0 for row in rows)
    assert all(row.this != row.fp32 for row in bundle.manifest.quality)
    assert main(["check", str(recipe.out), "--device", "cpu"]) == 0
    graph = (recipe.out / "stages" / "mask.onnx").read_bytes()
    assert (b"DynamicQuantizeLinear" in graph) == (forced == "int8-dynamic")


@pytest.mark.usefixtures("traced")
def test_the_gate_holds_and_leaves_nothing(recipe):
    with pytest.raises(GateError, match=r"at most -101 gIoU points .* lifted to fp32; the most"):
        export(replace(recipe, forced="int8-static", max_iou_drop=-101), lambda _: None)
    assert not list(recipe.out.parent.iterdir())


@pytest.mark.usefixtures("traced")
def test_no_budget_at_all_lets_nothing_pass(recipe):
    said = []
    with pytest.raises(GateError, match="must be a number of gIoU points; got nan"):
        export(replace(recipe, forced="int8-static", max_iou_drop=float("nan")), said.append)
    assert sum(line.startswith("chose ") for line in said) == 3


@pytest.mark.usefixtures("traced")
def test_the_masks_of_fp32_stand_in_for_an_unknown_truth(recipe, tiny_checkpoint, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    lines = (tiny_checkpoint / "samples" / "phrases.jsonl").read_text().splitlines()[:2]
    rows = [{"image": "000.jpg", "text": json.loads(line)["text"]} for line in lines]
    (folder / "phrases.jsonl").write_text("\n".join(map(json.dumps, rows)))
    picture = (tiny_checkpoint / "samples" / "000.jpg").read_bytes()
    (folder / "000.jpg").write_bytes(picture)
    bundle = export(replace(recipe, samples=folder, forced="int8-static"), lambda _: None)
    (single, every) = bundle.manifest.quality
    assert (single.task, every.task, every.phrase_count) == ("single", "all", 2)
    assert every.data == "samples, FP32 masks as truth"
    assert every.fp32 == 1
    assert 0.3 < every.this < 1


@pytest.mark.usefixtures("traced")
def test_a_folder_of_something_else_is_not_replaced(recipe):
    recipe.out.mkdir()
    (recipe.out / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="may replace only another bundle"):
        export(replace(recipe, precision="fp32", sample_limit=1), lambda _: None)
    assert (recipe.out / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"precision": "int4"},
            "precision must be one of fp16, fp32, fp8, int4-weights, ",
        ),
        ({"precision": "fp8"}, "the target of fp8 must be one of rtx, tensorrt; got 'cpu'"),
        ({"forced": "int8"}, "one of fp32, int8-dynamic, int8-static; got 'int8'"),
        ({"language": "Q3_K"}, "format must be one of BF16, F16, F32, Q4_0, Q4_K_M, "),
        ({"system": "sam3"}, "system must be one of evf-sam, sam4mllm; got 'sam3'"),
    ],
)
def test_unknown_names_are_refused_before_any_work(recipe, change, said):
    with pytest.raises(UnknownNameError) as caught:
        export(replace(recipe, **change), pytest.fail)
    assert said in str(caught.value)


def test_a_checkpoint_of_another_system_is_refused(recipe, tiny_checkpoint, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    for path in tiny_checkpoint.glob("*.*"):
        text = path.read_bytes()
        (folder / path.name).write_bytes(text.replace(b'"evf-sam"', b'"ras"'))
    with pytest.raises(CheckpointError, match="must be of evf-sam; .*config.json says 'ras'"):
        export(replace(recipe, checkpoint=str(folder)), pytest.fail)


def test_a_format_of_no_language_model_is_refused(recipe):
    with pytest.raises(UsageError, match="--llm must go with .*; evf-sam has none; got Q4_0"):
        export(replace(recipe, language="Q4_0"), pytest.fail)
