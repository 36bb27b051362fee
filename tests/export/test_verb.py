import argparse
import json
import shutil
import subprocess
import sys

import pytest

from saymask.export.recipe import ExportRecipe
from saymask.export.verb import add_arguments
from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main

BLOCKED = """
import sys
sys.modules[sys.argv[1]] = None
from saymask.runtime.cli import main
sys.exit(main(["export", "evf-sam"]))
"""
"""`saymask export` where a library is not installed."""


@pytest.fixture
def words(tiny_checkpoint, tmp_path) -> list[str]:
    """A call that exports the tiny checkpoint to `out`."""
    out = str(tmp_path / "out")
    return ["export", "evf-sam", "--checkpoint", str(tiny_checkpoint), "--out", out]


def test_what_is_not_said_is_the_recipes_default():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["evf-sam"])
    assert (args.precision, args.target) == ("fp32", None)
    for field in ("checkpoint", "samples", "sample_limit", "max_iou_drop"):
        assert getattr(args, field) == ExportRecipe.__dataclass_fields__[field].default, field


@pytest.mark.usefixtures("traced")
def test_json_sums_up_what_was_built(words, tmp_path, capsys):
    assert main([*words, "--json", "--threads", "1", "--sample-limit", "1"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    bundle = Bundle.read(tmp_path / "out")
    assert report["bundle"] == str(tmp_path / "out")
    assert report["stages"] == {"image": "fp32", "prompt": "fp32", "mask": "fp32"}
    assert report["quality"][-1]["task"] == "all"
    assert report["quality"][-1]["phrases"] == bundle.manifest.quality[-1].phrase_count
    files = [path for path in bundle.folder.rglob("*") if path.is_file()]
    assert report["bytes"] == sum(path.stat().st_size for path in files)
    assert "run 1 pictures in FP32" in err


@pytest.mark.usefixtures("traced")
def test_a_name_is_made_of_checkpoint_and_precision(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words[:-2], "--int8", "--max-iou-drop", "100", "--sample-limit", "1"]) == 0
    assert "saymask info bundles/tiny-int8" in capsys.readouterr().out
    assert Bundle.read(tmp_path / "bundles" / "tiny-int8").manifest.precision == "int8"


@pytest.mark.usefixtures("traced")
def test_a_gate_that_fails_is_code_3_and_no_bundle(words, tmp_path, capsys):
    assert main([*words, "--int8", "--max-iou-drop", "-101", "--sample-limit", "1"]) == 3
    err = capsys.readouterr().err
    assert "saymask: error: the masks must lose at most -101 gIoU points" in err
    assert "allow more with --max-iou-drop" in err
    assert not list(tmp_path.iterdir())


def test_an_unknown_system_is_code_2(capsys):
    assert main(["export", "evf-sam2"]) == 2
    said = "saymask: error: system must be one of evf-sam, sam4mllm; got 'evf-sam2'\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--sample-limit", "0"], "--sample-limit: must be a whole number from 1"),
        (["--max-iou-drop", "little"], "--max-iou-drop: invalid float value: 'little'"),
        (["--int4"], "unrecognized arguments: --int4"),
    ],
)
def test_wrong_flags_are_code_2(more, said, capsys):
    assert main(["export", "evf-sam", *more]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_checkpoint_is_code_1(words, capsys):
    assert main([*words, "--checkpoint", "nowhere"]) == 1
    err = capsys.readouterr().err
    assert "nowhere has no config.json; give such a folder or one of the miniatures" in err


def test_weights_that_do_not_fit_are_code_1_before_any_trace(
    words, tiny_checkpoint, tmp_path, capsys
):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main([*words, "--checkpoint", str(folder)]) == 1
    err = capsys.readouterr().err
    assert "model.safetensors must be a whole safetensors file" in err
    assert "trace" not in err


def test_missing_samples_are_code_1_before_any_load(words, tmp_path, capsys):
    assert main([*words, "--samples", str(tmp_path / "nothing")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("saymask: error: samples are a folder with phrases.jsonl")
    assert "saymask world stills" in err


@pytest.mark.usefixtures("traced")
def test_a_place_that_cannot_be_written_is_code_1(words, tmp_path, capsys):
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "bundle")
    assert main([*words, "--out", out, "--sample-limit", "1"]) == 1
    err = capsys.readouterr().err
    assert f"the bundle must be written to {out}, which failed" in err


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_a_missing_library_names_its_extra(library):
    command = [sys.executable, "-c", BLOCKED, library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"this needs the library {library!r}" in done.stderr
    assert "pip install 'saymask[export]'" in done.stderr
    assert "Traceback" not in done.stderr
