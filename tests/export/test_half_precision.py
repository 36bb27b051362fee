"""FP16 end to end on a tiny network: judged by its masks, and left to `saymask build`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from saymask.calibration.graph import Graph
from saymask.calibration.plan_file import read_plan
from saymask.export import half_precision
from saymask.export.half_precision import check_half
from saymask.export.halve import halve
from saymask.export.pipeline import export
from saymask.export.recipe import ExportRecipe
from saymask.runtime.cli import main
from saymask.runtime.errors import GateError, UsageError


@pytest.fixture
def recipe(tiny_checkpoint, tmp_path) -> ExportRecipe:
    return ExportRecipe(
        system="evf-sam",
        out=tmp_path / "half",
        checkpoint=str(tiny_checkpoint),
        precision="fp16",
        target="rtx",
        max_iou_drop=5,
        sample_limit=2,
        threads=1,
    )


@pytest.mark.usefixtures("traced")
def test_the_masks_hold_and_the_graphs_stay_as_build_wants_them(recipe, fp32_bundle, capsys):
    said = []
    bundle = export(recipe, said.append)
    manifest = bundle.manifest
    assert (manifest.precision, manifest.target) == ("fp16", "rtx")
    for stage in manifest.stages:
        assert stage.precision == "fp32"
        assert stage.reason.startswith("fp16 was asked for: saymask build makes it of this FP32 gr")
        assert f"chose {stage.name}: {stage.reason}" in said
        graph = onnx.load(bundle.folder / stage.file)
        kinds = {each.data_type for each in graph.graph.initializer}
        assert TensorProto.FLOAT16 not in kinds
    assert any(row.this != row.fp32 for row in manifest.quality)
    report = json.loads((bundle.folder / "report.json").read_text())
    assert report["loss"]["lost"] <= report["budget"] == 5
    assert report["loss"]["apart"] > 0
    assert [row["stage"] for row in report["stages"]] == ["image", "prompt", "mask"]
    for row in report["stages"]:
        assert (row["precision"], row["speedup"]) == ("fp16", None)
        assert 0.99 < row["cosine"] < 1.0000001
        assert row["size_ratio"] < 0.8
    nodes = read_plan(bundle.folder / "plan.json").stages["image"].nodes.values()
    assert {each.precision for each in nodes} == {"fp16", "fp32"}  # Attention divides by a sum.
    assert all(bool(each.reason) == (each.precision == "fp32") for each in nodes)
    assert main(["check", str(bundle.folder), "--device", "cpu"]) == 0
    assert main(["info", str(bundle.folder)]) == 0
    assert "evf-sam tiny, fp16 for rtx" in capsys.readouterr().out


@pytest.mark.usefixtures("traced")
def test_masks_that_lose_too_much_are_code_3_and_no_bundle(recipe, tiny_checkpoint, capsys):
    words = ["--checkpoint", str(tiny_checkpoint), "--out", str(recipe.out), "--sample-limit", "1"]
    more = ["--fp16", "--max-iou-drop", "-101", "--threads", "1"]
    assert main(["export", "evf-sam", *words, *more]) == 3
    err = capsys.readouterr().err
    assert "the masks must lose at most -101 gIoU points against FP32; in FP16 they lose" in err
    assert "(each stage alone: image " in err
    assert not list(recipe.out.parent.iterdir())


def _through_large_numbers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Multiply every output by 3e4 twice and divide it again, which FP32 holds."""
    graph = Graph(model)
    large, small = (graph.add(n, np.float32(each)) for n, each in (("l", 3e4), ("s", 1 / 3e4)))
    for output in model.graph.output:
        [maker] = [node for node in graph.nodes if output.name in node.output]
        steps = [graph.fresh("step") for _ in range(4)]
        maker.output[list(maker.output).index(output.name)] = steps[0]
        graph.nodes += [
            onnx.helper.make_node("Mul", [source, factor], [target], f"to_{target}")
            for source, factor, target in zip(
                steps, (large, large, small, small), (*steps[1:], output.name), strict=True
            )
        ]
    return halve(graph.model())


@pytest.mark.usefixtures("traced")
def test_an_overflow_is_caught(recipe, monkeypatch):
    """As where a linear attention sums its tokens in FP16; ONNX Runtime's FP16 would not see it."""
    monkeypatch.setattr(half_precision, "halve", _through_large_numbers)
    with pytest.raises(GateError, match="'image' overflows in image_embedding; export and build w"):
        export(recipe, lambda _: None)


def test_a_cpu_gains_nothing_and_the_error_says_why(recipe):
    for target in ("cpu", "openvino"):
        with pytest.raises(
            UsageError,
            match=f"--fp16 must go with --target rtx or tensorrt; got {target}, on whose",
        ):
            export(replace(recipe, target=target), pytest.fail)


def test_no_plan_is_followed(recipe):
    check_half(recipe)
    with pytest.raises(UsageError, match=r"follows no plan, .*; got my.json; leave --plan out"):
        export(replace(recipe, plan=Path("my.json")), pytest.fail)


def test_flags_that_do_not_go_together_are_code_2(tmp_path, capsys):
    for flags, said in (
        (["--target", "cpu"], "--fp16 must go with --target rtx or tensorrt; got cpu"),
        (["--int8"], "not allowed with argument"),
    ):
        words = ["export", "evf-sam", "--fp16", *flags, "--out", str(tmp_path / "out")]
        assert main(words) == 2
        assert said in capsys.readouterr().err
