import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from saymask.calibration.gate import Loss
from saymask.calibration.gate_report import GateReport, StageRow
from saymask.calibration.plan import NodePlan
from saymask.calibration.plan_file import Plan, StagePlan, plan_from_text, text_from_plan
from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.runtime.engine_cache import Share
from saymask.runtime.spec import LatencyRow, QualityRow, StageSpec

from ..language import quantized_folders


def test_a_person_reads_what_the_bundle_is(tiny_bundle, capsys):
    assert main(["info", str(tiny_bundle)]) == 0
    text = capsys.readouterr().out
    for said in (
        "system     evf-sam tiny, fp32 for cpu",
        "weights    tiny, licence CC0-1.0, SHA-256 000",
        "image   fp32       0.00  nothing else was asked for",
        "token_ids int64(phrases, tokens) -> prompt_embedding float32(phrases, 1, 4)",
        "sam   64x64           pad      bilinear, antialiased",
        "semantic '[semantic] {phrase}'",
        "quality: not measured",
        "latency: not compared",
        "gate: nothing was quantized",
        f"engines: none; compile them with: saymask build {tiny_bundle} --target rtx",
        Bundle.read(tiny_bundle).manifest.files[0][1],
    ):
        assert said in text


def test_a_program_reads_the_whole_manifest(tiny_bundle, capsys):
    assert main(["info", str(tiny_bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    sizes_bytes, folder = found.pop("sizes_bytes"), found.pop("folder")
    assert folder == str(tiny_bundle)
    assert found.pop("engines") == []
    assert found.pop("report") is None
    assert sizes_bytes["golden.npz"] == (tiny_bundle / "golden.npz").stat().st_size
    assert found == json.loads((tiny_bundle / "bundle.json").read_text())


def test_measured_figures_are_shown(tiny_bundle, tmp_path, capsys):
    source = Bundle.read(tiny_bundle)
    quality = QualityRow(
        task="single", metric="gIoU", data="world:val", phrase_count=500, fp32=0.8, this=0.7951
    )
    latency = [
        LatencyRow(stage="image", precision=name, median_ms=ms, is_taken=name == "int8-static")
        for name, ms in (("fp32", 12.5), ("int8-static", 5.25))
    ]
    manifest = replace(
        source.manifest, quality=(quality,), latency=tuple(latency), machine="Fast CPU 9000"
    )
    files = {
        name: source.folder / name for name, _ in source.manifest.files if name != "golden.npz"
    }
    Bundle.write(tmp_path / "measured", manifest, files, source.golden())
    assert main(["info", str(tmp_path / "measured")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["single", "gIoU", "world:val", "500", "0.8000", "0.7951", "-0.0049"] in lines
    assert ["image", "int8-static", "5.25", "taken"] in lines
    assert ["image", "fp32", "12.50"] in lines
    assert ["side", "by", "side", "on", "Fast", "CPU", "9000"] in lines


def test_engines_are_shown_by_what_was_asked_and_built(engine_bundle, capsys):
    folder = engine_bundle()
    for path in folder.glob("engines/*/mask.json"):
        path.write_text(path.read_text().replace('"graph_sha256": "', '"graph_sha256": "0'))
    assert main(["info", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "engine image of tensorrt 10.3.0 for sm 89, CUDA " in text
    assert "MiB, fp16 was asked for\n" in text
    assert "MiB, fp16 was asked for; stale: build it again\n" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["asked", "fp16", "1", "Conv"] in lines
    assert ["built", "fp16", "1", "correlation"] in lines
    assert text.count("multiply-adds as built: 100.0 % in fp16 (1 nodes)\n") == 3
    assert main(["info", str(folder), "--json"]) == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert {engine["stage"]: engine["is_stale"] for engine in engines} == {
        "image": False,
        "mask": True,
        "prompt": False,
    }


def test_a_language_model_for_tensorrt_llm_is_shown_by_its_algorithm(tiny_bundle, tmp_path, capsys):
    source = Bundle.read(tiny_bundle)
    folder = quantized_folders.write(tmp_path / "theirs", "int4-awq")
    (folder / "big.txt").write_bytes(bytes(3 << 20))
    language = StageSpec(
        name="language", file="stages/language", inputs=(), outputs=(), precision="int4-awq",
        reason="asked for",
    )  # fmt: skip
    files = {name: source.folder / name for name, _ in source.manifest.files}
    files["stages/language"] = folder
    manifest = replace(source.manifest, stages=(*source.manifest.stages, language))
    assert main(["info", str(Bundle.write(tmp_path / "new", manifest, files, {}).folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = "W4A16_AWQ for TensorRT-LLM and TensorRT Edge-LLM, which saymask does not run"
    assert f"language: {said}" in lines
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    row = ["language", "int4-awq", f"{size_bytes / 2**20:.2f}", "asked", "for"]
    assert row in [line.split() for line in lines]


@pytest.fixture
def with_file(tiny_bundle, tmp_path) -> Callable[[str, str], str]:
    """Writes the bundle again with one more file of some text."""

    def with_file(name: str, text: str) -> str:
        source = Bundle.read(tiny_bundle)
        files: dict[str, bytes | Path] = {
            listed: source.folder / listed for listed, _ in source.manifest.files
        }
        files[name] = text.encode()
        return str(Bundle.write(tmp_path / "more", source.manifest, files, {}).folder)

    return with_file


@pytest.fixture
def planned(with_file) -> Callable[[str], str]:
    """Writes the bundle again with a plan file of some text."""
    return lambda text: with_file("plan.json", text)


@pytest.mark.parametrize(
    ("is_here", "lost", "told"),
    [(True, 0.08, "0.08"), (False, 0.08, "0.08"), (True, -1e-3, "0.00")],
)
def test_what_the_gate_found_is_shown(with_file, capsys, is_here, lost, told):
    shares = [
        Share(precision="int8", nodes=35, multiply_adds=969, share=0.969),
        Share(precision="fp32", nodes=20, multiply_adds=31, share=0.031),
    ]
    stage = StageRow(
        stage="image",
        precision="int8-static",
        cosine=0.99861,
        speedup=1.653 if is_here else None,
        size_ratio=0.309,
        shares=tuple(shares) if is_here else (),
    )
    report = GateReport(budget=1.0, loss=Loss(lost=lost, apart=1.93), stages=(stage,), tasks=())
    folder = with_file("report.json", json.dumps(asdict(report)))
    assert main(["info", folder]) == 0
    text = capsys.readouterr().out
    assert (
        f"gate: {told} points of gIoU lost of 1 allowed; masks 1.93 points of IoU apart from FP32's"
    ) in text
    executed = "96.9 % in int8 (35 nodes), 3.1 % in fp32 (20 nodes)"
    row = ["image", "int8-static", "0.99861"]
    row += (
        ["1.65", "0.31", *executed.split()] if is_here else ["-", "0.31", "not", "executed", "here"]
    )
    assert row in [line.split() for line in text.splitlines()]
    assert main(["info", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["report"]
    assert found == json.loads(json.dumps(asdict(report)))


def test_the_plan_is_shown_node_by_node(planned, capsys):
    nodes = {
        "stem": NodePlan(precision="fp32", reason="lifted: it hurt"),
        "wide": NodePlan(precision="int8-static", reason=""),
    }
    plan = Plan(
        system="evf-sam",
        variant="tiny",
        target="cpu",
        stages={"image": StagePlan(graph_sha256="0" * 64, nodes=nodes)},
    )
    folder = planned(text_from_plan(plan))
    assert main(["info", folder, "--plan"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "plan of evf-sam tiny for cpu"
    assert ["image", "stem", "fp32", "lifted:", "it", "hurt"] in [line.split() for line in lines]
    assert ["image", "wide", "int8-static"] in [line.split() for line in lines]
    assert main(["info", folder, "--plan", "--json"]) == 0
    assert plan_from_text(capsys.readouterr().out, origin="stdout") == plan


def test_a_plan_of_nothing(planned, capsys):
    plan = Plan(system="evf-sam", variant="tiny", target="cpu", stages={})
    assert main(["info", planned(text_from_plan(plan)), "--plan"]) == 0
    assert capsys.readouterr().out == "plan: every node computes in FP32\n"


@pytest.mark.parametrize("text", ["{}", '{"plan_version": 9}'])
def test_a_plan_of_another_version_is_an_error(planned, capsys, text):
    assert main(["info", planned(text), "--plan"]) == 1
    assert "must hold plan.json with plan_version 1, which this saymask shows; got" in (
        capsys.readouterr().err
    )


def test_a_bundle_without_a_plan_is_an_error(tiny_bundle, capsys):
    assert main(["info", str(tiny_bundle), "--plan"]) == 1
    assert "; got none; export it again" in capsys.readouterr().err


def test_a_damaged_bundle_is_an_error(tiny_bundle, tmp_path, capsys):
    damaged = shutil.copytree(tiny_bundle, tmp_path / "damaged")
    (damaged / "golden.npz").unlink()
    assert main(["info", str(damaged)]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("saymask: error: the bundle must hold ")
    assert "golden.npz" in err


def test_a_folder_that_is_no_bundle_is_an_error(tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 1
    assert "a bundle must hold bundle.json" in capsys.readouterr().err
