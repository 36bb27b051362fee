"""Small numbers end to end, on a tiny network whose masks are what counts."""

import json
from dataclasses import replace
from importlib.util import find_spec

import onnx
import pytest

from saymask.calibration.plan_file import read_plan
from saymask.export.pipeline import export
from saymask.export.recipe import ExportRecipe
from saymask.runtime.cli import main
from saymask.runtime.engine import open_engine
from saymask.runtime.errors import GateError, InputError

pytestmark = pytest.mark.usefixtures("traced")


@pytest.fixture
def recipe(tiny_checkpoint, tmp_path) -> ExportRecipe:
    return ExportRecipe(
        system="evf-sam",
        out=tmp_path / "small",
        checkpoint=str(tiny_checkpoint),
        precision="int8",
        target="rtx",
        max_iou_drop=100,
        sample_limit=2,
        threads=1,
    )


@pytest.mark.parametrize("precision", ["int8", "fp8", "int4-weights"])
def test_graphs_for_tensorrt_are_judged_and_planned(recipe, precision, capsys):
    bundle = export(replace(recipe, precision=precision), lambda _: None)
    manifest = bundle.manifest
    assert (manifest.precision, manifest.target) == (precision, "rtx")
    assert precision in {stage.precision for stage in manifest.stages}
    assert not manifest.latency  # No RTX card was here to take the time on.
    plan = read_plan(bundle.folder / "plan.json")
    for stage in manifest.stages:
        if stage.precision == precision:
            assert stage.reason.startswith(f"{precision} was asked for; ")
            assert precision in {each.precision for each in plan.stages[stage.name].nodes.values()}
    report = json.loads((bundle.folder / "report.json").read_text())
    assert {row["stage"] for row in report["stages"]} == {"image", "prompt", "mask"}
    assert all(row["speedup"] is None for row in report["stages"])
    assert main(["info", str(bundle.folder), "--plan"]) == 0
    assert precision in capsys.readouterr().out


def test_a_plan_that_is_given_back_is_followed(recipe, tmp_path):
    first = export(recipe, lambda _: None)
    text = (first.folder / "plan.json").read_text()
    data = json.loads(text)
    stage, nodes = next((name, each["nodes"]) for name, each in data["stages"].items())
    node = next(name for name, each in nodes.items() if each["precision"] == "int8")
    nodes[node] = {"precision": "fp32", "reason": "I say so"}
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(data))
    second = export(replace(recipe, out=tmp_path / "again", plan=edited), lambda _: None)
    kept = read_plan(second.folder / "plan.json").stages[stage].nodes[node]
    assert (kept.precision, kept.reason) == ("fp32", "I say so")
    sizes = [(each.folder / f"stages/{stage}.onnx").stat().st_size for each in (first, second)]
    assert sizes[0] < sizes[1]


def test_a_killed_export_goes_on_from_its_ranges(recipe, run_killed, tmp_path):
    recipe = replace(recipe, sample_limit=1)
    whole = export(replace(recipe, out=tmp_path / "whole"), lambda _: None)
    work = tmp_path / "work"
    words = ("export", "evf-sam", "--checkpoint", recipe.checkpoint, "--int8", "--target", "rtx")
    words += ("--max-iou-drop", 100, "--sample-limit", 1, "--threads", 1)
    last = work / "prompt" / "symmetric" / "whole" / "statistics.npz"
    run_killed(last, *words, "--out", recipe.out, "--work", work)
    assert not recipe.out.exists()
    assert not last.exists()
    kept = {path: path.stat().st_mtime_ns for path in (work / "image").rglob("statistics.npz")}
    assert kept
    bundle = export(replace(recipe, work=work), lambda _: None)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for file in ("plan.json", *(stage.file for stage in bundle.manifest.stages)):
        assert (bundle.folder / file).read_bytes() == (whole.folder / file).read_bytes()


def test_a_plan_for_another_target_is_refused(recipe, tmp_path):
    first = export(recipe, lambda _: None)
    with pytest.raises(InputError, match="the plan must be for the target cpu; it is for rtx"):
        export(
            replace(recipe, target="cpu", plan=first.folder / "plan.json", out=tmp_path / "cpu"),
            lambda _: None,
        )


def test_a_plan_for_another_precision_is_refused(recipe, tmp_path):
    made, asked = "int8", "fp8"
    first = export(replace(recipe, precision=made), lambda _: None)
    wanted = replace(recipe, precision=asked, plan=first.folder / "plan.json", out=tmp_path / asked)
    with pytest.raises(InputError, match=f"on rtx: fp32, {asked}; got .* of stage .* '{made}'"):
        export(wanted, lambda _: None)


@pytest.mark.parametrize(("target", "small"), [("cpu", "int8-static"), ("rtx", "int8")])
def test_a_plan_may_quantize_what_would_stay_fp32(recipe, tmp_path, target, small):
    recipe = replace(recipe, target=target, sample_limit=1, work=tmp_path / "work")
    forced = small if target == "cpu" else None
    first = export(replace(recipe, forced=forced), lambda _: None)
    data = json.loads((first.folder / "plan.json").read_text())
    nodes = data["stages"]["image"]["nodes"]
    stem = next(name for name, each in nodes.items() if each["reason"].startswith("reads the in"))
    deep = next(name for name, each in nodes.items() if each["reason"].startswith("grouped"))
    nodes |= dict.fromkeys((stem, deep), {"precision": small, "reason": "I say so"})
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(data))
    second = export(replace(recipe, out=tmp_path / "again", plan=edited), lambda _: None)
    kept = read_plan(second.folder / "plan.json").stages["image"].nodes
    assert {kept[stem].reason, kept[deep].reason} == {"I say so"}
    assert second.stage("image").reason == f"{small} is what the plan says"
    sizes = [_rounded(each.folder / "stages" / "image.onnx") for each in (first, second)]
    assert sizes[0] < sizes[1]


def _rounded(path) -> int:
    """How many tensors a graph rounds."""
    return sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)


def test_other_ranges_are_searched_anew(recipe, tiny_checkpoint, tmp_path):
    """What was measured with the ranges of some pictures says nothing about those of others."""
    kept = []
    for number in (0, 1):
        picture = tiny_checkpoint / "samples" / f"00{number}.jpg"
        phrases = tmp_path / "phrases.txt"
        phrases.write_text("the red mug\n")
        wanted = replace(
            recipe, precision="int8", sample_limit=1, calib=str(picture), calib_phrases=phrases,
            work=tmp_path / f"{number}", out=tmp_path / "small",
        )  # fmt: skip
        if kept:  # The journal of the first export comes along.
            wanted.work.mkdir(exist_ok=True)
            (wanted.work / "search.jsonl").write_bytes(kept[-1])
        export(wanted, lambda _: None)
        kept.append((wanted.work / "search.jsonl").read_bytes())
    assert len(kept[0]) < len(kept[1])


def test_a_search_that_remembers_wrongly_is_found_out(recipe, tmp_path):
    recipe = replace(recipe, sample_limit=1, max_iou_drop=100, work=tmp_path / "work")
    export(recipe, lambda _: None)
    journal = tmp_path / "work" / "search.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        line["figures"] = dict.fromkeys(line["figures"], -102)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(GateError, match=r"judged again after .*; delete .*search.jsonl, start aga"):
        export(replace(recipe, max_iou_drop=-101, out=tmp_path / "other"), lambda _: None)
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed")
def test_graphs_for_openvino_are_chosen_judged_and_run_there(recipe, capsys):
    bundle = export(replace(recipe, target="openvino"), lambda _: None)
    manifest = bundle.manifest
    assert manifest.target == "openvino"
    assert {row.precision for row in manifest.latency} == {"fp32", "int8-static"}
    assert type(open_engine(bundle, "image", threads=1)).__name__ == "OpenVinoEngine"
    report = json.loads((bundle.folder / "report.json").read_text())
    assert all(row["speedup"] for row in report["stages"])
    for verb in ("check", "info"):
        assert main([verb, str(bundle.folder)]) == 0
    assert "int8 for openvino" in capsys.readouterr().out
