"""Bundles of one checkpoint beside FP32, in a table or in JSON, by masks or by layers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from saymask.export.compare import add_arguments, run
from saymask.export.pipeline import export
from saymask.export.recipe import ExportRecipe
from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import BundleError


def _compare(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(list(map(str, words))))


@pytest.fixture(scope="module")
def small(tiny_checkpoint, graphs, tmp_path_factory) -> dict[str, Path]:
    """Folders of the tiny checkpoint's bundles for TensorRT, by precision."""
    folder = tmp_path_factory.mktemp("small")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saymask.export.pipeline.trace", lambda stage: graphs[stage.name])
        for precision in ("int8", "fp8"):
            recipe = ExportRecipe(
                system="evf-sam",
                out=folder / precision,
                checkpoint=str(tiny_checkpoint),
                precision=precision,
                target="rtx",
                max_iou_drop=100,
                sample_limit=1,
                threads=1,
            )
            found[precision] = export(recipe, lambda _: None).folder
    return found


@pytest.fixture
def words(fp32_bundle, small, tiny_checkpoint) -> list[object]:
    """A call that compares both with FP32 on one picture."""
    samples = ["--samples", tiny_checkpoint / "samples", "--sample-limit", 1]
    return [fp32_bundle.folder, small["int8"], small["fp8"], *samples]


def test_masks_are_held_against_fp32s(words, small, capsys):
    assert _compare(*words, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    whole = {row["quantizer"]: row for row in report["rows"] if row["stage"] == "all"}
    assert set(whole) == {str(small["int8"]), str(small["fp8"])}
    assert report["nearest"] in whole
    for name, row in whole.items():
        own = [each for each in report["rows"] if each["quantizer"] == name and each is not row]
        assert {each["stage"] for each in own} <= {"image", "prompt", "mask"}
        assert row["weight_bytes"] == sum(each["weight_bytes"] for each in own)
        assert row["cosine"] > 0.9
    assert _compare(*words) == 0
    header, *lines, end = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["quantizer", "stage", "lost", "apart"]
    assert len(lines) == len(report["rows"])
    assert end == f"{report['nearest']} stays nearest to FP32"


def test_layers_are_held_against_fp32s(fp32_bundle, small, capsys):
    words = [fp32_bundle.folder, small["int8"], "--layers"]
    assert _compare(*words, "--floor", 0, "--json") == 0
    report = json.loads(capsys.readouterr().out)[str(small["int8"])]
    quantized = Bundle.read(small["int8"]).manifest.stages
    assert set(report) == {stage.name for stage in quantized if stage.precision == "int8"}
    for stage in report.values():
        assert stage["first_departure"] is None
        assert stage["first_fault"] is None
        assert all(0 <= layer["cosine"] < 1.001 for layer in stage["layers"])
    assert _compare(*words, "--floor", 1.1) == 0
    title, header, first, *_ = capsys.readouterr().out.splitlines()
    name = next(iter(report))
    assert title == f"{small['int8']}, stage {name}"
    assert header.split() == ["cosine", "max", "abs", "layer"]
    assert report[name]["layers"][0]["node"] in first


def test_polygraphy_says_the_same_of_the_layers(fp32_bundle, small, capsys):
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    reports = []
    for flag in ("--layers", "--polygraphy"):
        assert _compare(fp32_bundle.folder, small["int8"], flag, "--json") == 0
        reports.append(json.loads(capsys.readouterr().out)[str(small["int8"])])
    ours, theirs = reports
    assert theirs.keys() == ours.keys()
    for stage, found in theirs.items():
        cosines = {layer["tensor"]: layer["cosine"] for layer in ours[stage]["layers"]}
        assert len(found["layers"]) > 5
        for layer in found["layers"]:
            assert layer["cosine"] == pytest.approx(cosines[layer["tensor"]], abs=1e-4)


def test_what_cannot_be_compared(fp32_bundle, small, tiny_bundle, fp8_bundle):
    with pytest.raises(BundleError, match="the first bundle must be in FP32; .* is int8"):
        _compare(small["int8"], small["fp8"])
    with pytest.raises(BundleError, match="is in FP32 too; export one with --int8"):
        _compare(fp32_bundle.folder, tiny_bundle)
    with pytest.raises(BundleError, match="must be of the checkpoint of .* it is of 'tiny' with 0"):
        _compare(fp32_bundle.folder, fp8_bundle)
