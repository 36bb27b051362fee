"""`saymask build` compiles a bundle and says what it built."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import pytest

from saymask.export import build
from saymask.export import compile as compiling
from saymask.export.compile import CompileRecipe
from saymask.runtime.engine_cache import read_reports
from saymask.runtime.errors import MissingExtraError


@pytest.fixture
def bundle(tiny_bundle, tmp_path) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path / "tiny")


def _args(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    build.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_what_is_not_said_is_the_recipes_default():
    args = _args("bundle", "--target", "rtx")
    assert (args.fp16, args.device_sm) == (False, None)
    assert args.phrases == CompileRecipe(target="rtx").phrases


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bundle"], "the following arguments are required: --target"),
        (["bundle", "--target", "cpu"], "invalid choice: 'cpu'"),
        (["bundle", "--target", "rtx", "--phrases", "0"], "must be a whole number from 1; got '0'"),
    ],
)
def test_wrong_flags(words, said, capsys):
    with pytest.raises(SystemExit) as raised:
        _args(*words)
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


def test_engines_for_a_person_and_a_program(bundle, monkeypatch, capsys):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    words = [bundle, "--target", "rtx", "--device-sm", "89"]
    assert build.run(_args(*words)) == 0
    out, err = capsys.readouterr()
    lines = [line.split()[:2] for line in out.splitlines()]
    assert lines[:4] == [
        ["stage", "precision"],
        ["image", "fp32"],
        ["prompt", "fp32"],
        ["mask", "fp32"],
    ]
    assert out.splitlines()[-1].endswith(f"saymask info {bundle}")
    assert "saymask: compile mask in fp32" in err
    built = tuple(report for _, report in read_reports(bundle))
    monkeypatch.setattr(compiling, "compile_bundle", lambda *_: built)
    assert build.run(_args(*words, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert Path(report["folder"], "mask.engine").is_file()
    assert [engine["precision"] for engine in report["engines"]] == ["fp32"] * 3


@pytest.mark.parametrize(
    ("held", "flags", "wanted"),
    [("fp32", [], "fp32"), ("fp32", ["--fp16"], "fp16"), ("fp16", [], "fp16")],
)
def test_a_bundle_in_fp16_needs_no_flag(bundle, monkeypatch, held, flags, wanted):
    path, asked = bundle / "bundle.json", []
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": held}))

    def note(_, recipe, *__):
        asked.append(recipe.precision)
        raise KeyboardInterrupt

    monkeypatch.setattr(compiling, "compile_bundle", note)
    with pytest.raises(KeyboardInterrupt):
        build.run(_args(bundle, "--target", "rtx", *flags))
    assert asked == [wanted]


def test_without_onnx(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"saymask\[export\]"):
        build.run(_args(bundle, "--target", "rtx"))
