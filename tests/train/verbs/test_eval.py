import json
import os
from pathlib import Path

import pytest

from saymask.runtime.cli import main

CPU = ("--device", "cpu", "--threads", "1")
FEW = ("--phrases", "6", *CPU)


def report(capsys, *words) -> list[dict]:
    assert main(["eval", *map(str, words), "--json", *FEW]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_bundles_are_scored_side_by_side(tiny_bundle, capsys):
    first, second = report(capsys, tiny_bundle, tiny_bundle)
    assert first["tasks"] == second["tasks"]
    assert (first["bundle"], first["data"]) == ("tiny", "world:test")
    assert first["has_wrong_words"] is False
    assert {"single", "part", "semantic"} <= set(first["tasks"])
    single = first["tasks"]["single"]
    assert single["phrases"] >= 6
    assert set(single) == {"phrases", "gIoU", "cIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9"}
    assert all(0 <= single[name] <= 1 for name in single if name != "phrases")
    assert first["frames"] > 0
    assert first["frame_ms"] > 0
    stages = (tiny_bundle / "stages").iterdir()
    assert first["stages_bytes"] == sum(path.stat().st_size for path in stages)


def test_tasks_and_data_are_chosen(tiny_bundle, capsys):
    words = ("--tasks", "part,part", "--data", "world:val", "--wrong-words")
    (found,) = report(capsys, tiny_bundle, *words)
    assert found["data"] == "world:val"
    assert found["has_wrong_words"] is True
    assert all(name.startswith("part") for name in found["tasks"])
    assert found["tasks"]["part"]["phrases"] < 6 + 4, "naming a task twice asks it once"


def test_a_person_reads_tables(tiny_bundle, capsys, monkeypatch):
    monkeypatch.chdir(tiny_bundle)
    assert main(["eval", ".", os.fspath(tiny_bundle), "--tasks", "single", *FEW]) == 0
    quality, cost = capsys.readouterr().out.split("\n\n")
    header, first, second, *_ = quality.splitlines()
    assert header.split()[:5] == ["bundle", "task", "phrases", "gIoU", "cIoU"]
    assert header.split()[5:] == ["Pr@0.5", "Pr@0.7", "Pr@0.9"]
    assert first == second
    assert first.split()[:2] == ["tiny", "single"]
    assert "ms a frame" in cost.splitlines()[0]
    assert len(cost.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--data", "coco"], 2, "--data must be one of world:test, world:train, world:val; got"),
        (["--data", "world:dev"], 2, "got 'world:dev'"),
        (["--tasks", "single,chat"], 2, "must be one of part, semantic, single; got 'chat'"),
        (["--phrases", "0"], 2, "whole number from 1"),
        (["--device", "cuda:99"], 4, "cuda:99"),
    ],
)
def test_wrong_calls_end_in_one_line(tiny_bundle, capsys, words, code, said):
    assert main(["eval", str(tiny_bundle), *FEW, *words]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_bundle_that_is_none_is_named(tiny_bundle, tmp_path: Path, capsys):
    for other, said in (("nowhere", "looked for nowhere"), (str(tmp_path), str(tmp_path))):
        assert main(["eval", str(tiny_bundle), other, *FEW]) == 1
        assert said in capsys.readouterr().err
