"""SAM4MLLM becomes a bundle; what a language model of few bits costs is told by the masks."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from saymask.calibration.gate import score_samples
from saymask.calibration.samples import Sample, read_samples
from saymask.export.checkpoint import open_checkpoint
from saymask.export.models.point_prompts import PointPrompts
from saymask.export.pipeline import export
from saymask.export.quantization import Reference
from saymask.export.recipe import ExportRecipe
from saymask.export.rounding import GOLDEN_VECTORS, judge_language
from saymask.export.steps import Steps
from saymask.export.systems.sam4mllm import load, views
from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.runtime.errors import CheckpointError, GateError
from saymask.runtime.geometry import back, fit
from saymask.runtime.segmenter import Segmenter
from saymask.runtime.systems import open_system
from saymask.runtime.systems.sam4mllm_protocol import protocol_from_settings

from ..runtime import tiny_chat
from . import tiny_sam4mllm, without_torch

BOX = np.float32([281, 251, 863, 999])
"""What the model answers, in thousandths."""


@pytest.fixture
def recipe(chat_checkpoint, chat_traced, tmp_path) -> ExportRecipe:
    """How the checkpoint becomes a bundle again; nothing is lost that counts."""
    return ExportRecipe(
        system="sam4mllm",
        out=tmp_path / "out" / "chat",
        checkpoint=str(chat_checkpoint),
        max_iou_drop=100,
        threads=1,
    )


@pytest.fixture(scope="module")
def samples(chat_checkpoint) -> tuple[Sample, ...]:
    return read_samples(chat_checkpoint / "samples")


def _report(bundle: Bundle) -> dict:
    return json.loads((bundle.folder / "report.json").read_text())


def test_the_bundle_says_what_it_is(chat_bundle, capsys):
    manifest = chat_bundle.manifest
    assert [(stage.name, stage.precision) for stage in manifest.stages] == [
        ("image", "fp32"), ("vision", "fp32"), ("language", "f16"), ("mask", "fp32"),
    ]  # fmt: skip
    assert [stage.is_graph for stage in manifest.stages] == [True, True, False, True]
    assert manifest.tokenizer is None
    assert protocol_from_settings(manifest.settings) == tiny_sam4mllm.PROTOCOL
    assert chat_bundle.stage("vision").inputs[0].shape == ("tiles", 3, 24, 32)
    assert chat_bundle.stage("mask").inputs[1].shape == ("masks", "points", 2)
    assert not (chat_bundle.folder / "report.json").exists()
    assert main(["info", str(chat_bundle.folder)]) == 0
    told = capsys.readouterr().out
    assert "language: words and vectors -> words" in told
    assert "gate: nothing was quantized" in told


@torch.no_grad()
def test_the_masks_are_those_of_the_network(chat_bundle, chat_checkpoint, samples):
    network = load(open_checkpoint(chat_checkpoint))
    sam, _ = views(network.spec)
    segmenter = Segmenter.open(chat_bundle.folder, device="cpu", threads=1)
    shown = set()
    for sample in samples:
        found = segmenter.segment(sample.frame, sample.texts[:1])
        (said,) = found.said
        (height, width), seen = sample.frame.shape[:2], said.labels >= 0
        wh, scale = np.float32([width, height]), sam.size_hw[0] / height
        np.testing.assert_allclose(said.boxes_xyxy[0], BOX / 1000 * np.tile(wh, 2), atol=1e-3)
        points = np.concatenate([said.points_xy[seen], said.boxes_xyxy.reshape(2, 2)]) * scale
        labels = np.array([*said.labels[seen], 2, 3])
        shown.add(tuple(labels))
        view, placement = fit(sample.frame, sam)
        (features,) = network.visual_model.encode(torch.from_numpy(view))
        logits, iou = PointPrompts(network.visual_model)(
            features,
            torch.from_numpy(points[None].astype(np.float32)),
            torch.from_numpy(labels[None]),
        )
        expected, _ = back(logits[:, iou[0].argmax()].numpy(), placement, threshold=0.0)
        assert 0.02 < expected.mean() < 0.98
        assert (found.boolean == expected).mean() > 0.999
    assert {0, 1, 2, 3} <= set().union(*shown)


def test_it_segments_without_torch_onnx_and_the_floors_above(chat_bundle, samples, tmp_path):
    frame = samples[0].frame
    found = Segmenter.open(chat_bundle.folder, device="cpu").segment(frame, without_torch.TEXTS)
    assert without_torch.segment(chat_bundle.folder, frame, tmp_path) == (
        *found.boolean.shape, *found.boolean.sum((1, 2)),
    )  # fmt: skip


def test_its_golden_arrays_replay_the_language_model_too(chat_bundle, capsys):
    golden = chat_bundle.golden()
    opening, vectors, *_ = (golden[f"language/part{number}"] for number in range(4))
    assert opening.ndim == 1
    assert vectors.shape == (GOLDEN_VECTORS, tiny_chat.WIDTH)
    np.testing.assert_array_equal(vectors[:12], golden["vision/image_embeddings"][0, :12])
    assert golden["language/next_token"].shape == (len(tiny_chat.vocabulary(tiny_chat.BOX)),)
    assert main(["check", str(chat_bundle.folder), "--device", "cpu", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["outputs"]
    assert Counter(row["stage"] for row in rows) == {
        "image": 1, "vision": 1, "language": 1, "mask": 2, "all": 1,
    }  # fmt: skip


def test_few_bits_are_judged_and_told(recipe, chat_bundle, samples, capsys):
    said = []
    bundle = export(replace(recipe, language="Q4_K_M"), said.append)
    stage = bundle.stage("language")
    assert stage.precision == "q4_k_m"
    assert stage.reason.startswith("q4_k_m was asked for; perplexity ")
    assert f"chose language: {stage.reason}" in said
    kinds = Counter(
        tensor.tensor_type.name for tensor in gguf.GGUFReader(bundle.folder / stage.file).tensors
    )
    assert kinds["Q5_0"] > 10  # Rows of 64 are too short for K formats.
    every = bundle.manifest.quality[-1]
    assert every.fp32 == chat_bundle.manifest.quality[-1].fp32
    report = _report(bundle)
    assert report["stages"] == []
    assert report["loss"]["lost"] == pytest.approx(100 * (every.fp32 - every.this))
    assert report["loss"]["apart"] > 0
    name = "language/next_token"
    np.testing.assert_array_equal(bundle.golden()[name], chat_bundle.golden()[name])
    assert main(["check", str(bundle.folder), "--device", "cpu"]) == 0
    assert main(["info", str(bundle.folder)]) == 0
    assert "points of gIoU lost of 100 allowed" in capsys.readouterr().out
    found = Segmenter.open(bundle.folder, device="cpu").segment(samples[0].frame, "it")
    assert found.said[0].answer.startswith(tiny_chat.BOX)


def test_graphs_and_language_model_become_small_together(recipe):
    recipe = replace(recipe, precision="int8", forced="int8-dynamic", sample_limit=1)
    bundle = export(recipe, lambda _: None)
    reasons = {stage.name: stage.reason for stage in bundle.manifest.stages}
    assert bundle.stage("language").precision == "q8_0"
    assert reasons["language"].startswith("q8_0 was asked for; perplexity ")
    assert reasons["vision"].startswith("int8-dynamic was asked for; ")
    assert {row["stage"] for row in _report(bundle)["stages"]} == {"image", "vision", "mask"}
    assert main(["check", str(bundle.folder), "--device", "cpu"]) == 0


def test_points_that_are_written_at_once_are_read_too(recipe):
    switches = (("variant", "ppg"),)
    recipe = replace(recipe, language="Q8_0", switches=switches, sample_limit=1)
    bundle = export(recipe, lambda _: None)
    assert "perplexity" in bundle.stage("language").reason
    assert main(["check", str(bundle.folder), "--device", "cpu"]) == 0


def test_the_gate_holds_and_leaves_nothing(recipe, capsys):
    words = ["--checkpoint", recipe.checkpoint, "--out", str(recipe.out), "--threads", "1"]
    flags = ["--llm", "q4_0", "--max-iou-drop", "-101", "--sample-limit", "1"]
    assert main(["export", "sam4mllm", *words, *flags]) == GateError.exit_code
    assert "with the language model in Q4_0 they lose" in " ".join(capsys.readouterr().err.split())
    assert not list(recipe.out.parent.iterdir())


def test_no_budget_at_all_lets_nothing_pass(recipe, chat_bundle, samples):
    with closing(open_system(chat_bundle, device="cpu", threads=1)) as system:
        reference = Reference({}, *score_samples(system, samples[:1]))
    recipe = replace(recipe, max_iou_drop=float("nan"))
    with pytest.raises(GateError, match="may lose nan points .* they lose 0.00"):
        judge_language(recipe, chat_bundle, samples[:1], reference, Steps(lambda _: None))


def test_a_model_that_finds_nothing_cannot_be_judged(recipe, tmp_path):
    silent = tiny_sam4mllm.write(tmp_path / "silent", "No object found.")
    with pytest.raises(CheckpointError, match="mask did not, .* found nothing in 2 pictures"):
        export(replace(recipe, checkpoint=str(silent)), lambda _: None)
    assert not list(Path(recipe.out.parent).iterdir())
