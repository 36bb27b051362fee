import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main

from ...runtime import chat_bundle

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


def test_what_only_tensorrt_runs_is_simulated(tiny_bundle, fp8_bundle, capsys):
    assert main(["eval", str(fp8_bundle), *FEW]) == 1
    assert "refuses" in capsys.readouterr().err
    plain, small = report(capsys, tiny_bundle, fp8_bundle, "--simulate")
    assert small["bundle"] == "tiny-fp8-rtx"
    assert plain["is_simulated"] is small["is_simulated"] is True
    assert plain["tasks"].keys() == small["tasks"].keys()


@pytest.fixture
def set_bundle(tiny_bundle, tmp_path) -> Path:
    """The tiny bundle with a setting, which its system does not read."""
    tiny = Bundle.read(tiny_bundle)
    files = {name: tiny_bundle / name for name, _ in tiny.manifest.files if name != "golden.npz"}
    manifest = replace(tiny.manifest, settings=(("keep_yes", "0.9"), ("count", "1")))
    return Bundle.write(tmp_path / "set", manifest, files, tiny.golden()).folder


def test_a_bundle_competes_under_several_settings(set_bundle, capsys):
    words = ("--tasks", "single", "--set", "keep_yes=0.6", "--set", "keep_yes=0.8,count=0+")
    first, second = report(capsys, set_bundle, *words)
    assert first["bundle"] == "set keep_yes=0.6"
    assert second["bundle"] == "set keep_yes=0.8,count=0+"
    assert first["tasks"] == second["tasks"]


def test_how_far_bundles_are_apart_is_said_with_intervals(tiny_bundle, set_bundle, capsys):
    words = (tiny_bundle, set_bundle, tiny_bundle, "--intervals", "--tasks", "single")
    first, *others = report(capsys, *words)
    assert "ahead" not in first
    for other in others:
        assert other["ahead_of"] == "tiny"
        assert set(other["ahead"]) == set(other["tasks"])
        nothing = {"difference": 0, "low": 0, "high": 0, "is_sure": False}
        assert other["ahead"]["single"] == {"gIoU": nothing, "cIoU": nothing}
    assert main(["eval", *map(str, words), *FEW]) == 0
    _, intervals, _ = capsys.readouterr().out.split("\n\n")
    assert intervals.splitlines()[0].split()[-3:] == ["points", "from", "to"]
    assert "set" in intervals


def test_groups_are_asked_when_they_are_named(tiny_bundle, capsys):
    (found,) = report(capsys, tiny_bundle, "--tasks", "multi")
    assert {"N-acc", "T-acc"} <= set(found["tasks"]["multi"])
    assert main(["eval", str(tiny_bundle), "--tasks", "multi", *FEW]) == 0
    assert " - " in capsys.readouterr().out, "what no phrase bears on"


@pytest.fixture
def chat(tmp_path) -> Callable[..., Path]:
    """Writes a bundle of SAM4MLLM that gives each question the same answer."""
    pytest.importorskip("xllamacpp")
    return lambda answer: chat_bundle.write(tmp_path / answer.replace(" ", "-"), answer)


def test_a_protocol_competes_under_several_settings(chat, capsys):
    sets = ("keep_yes=0.6,keep_no=0.6", "keep_yes=0,keep_no=0.5", "points=random,point_count=2")
    words = ("--tasks", "multi", "--intervals", *(word for one in sets for word in ("--set", one)))
    first, *others = report(capsys, chat("[281,251,863,999]"), *words)
    for found, settings in zip((first, *others), sets, strict=True):
        assert found["bundle"] == f"[281,251,863,999] {settings}"
        multi = found["tasks"]["multi"]
        assert (multi["N-acc"], multi["T-acc"]) == (0, 1), "a box is always answered"
        assert multi["gIoU"] > 0
    assert all(other["ahead"]["multi"].keys() == {"gIoU", "cIoU"} for other in others)
    assert [found["tasks"] == first["tasks"] for found in others] != [True, True]


def test_nothing_is_found(chat, capsys):
    (found,) = report(capsys, chat("No object found."), "--tasks", "multi")
    assert (found["tasks"]["multi"]["N-acc"], found["tasks"]["multi"]["T-acc"]) == (1, 0)


def test_words_are_scored_beside_masks(chat, capsys):
    bundles = chat("yes"), chat("red")
    words = (*bundles, "--tasks", "vqa,single", "--intervals")
    yes, red = report(capsys, *words)
    assert yes["tasks"].keys() >= {"single", "vqa", "vqa color", "vqa count", "vqa yes or no"}
    assert yes["tasks"]["vqa"]["phrases"] >= 6
    right = [found["tasks"]["vqa yes or no"]["accuracy"] for found in (yes, red)]
    assert 0 < right[0] < 1
    assert right[1] == 0
    points = red["ahead"]["vqa yes or no"]["accuracy"]["difference"]
    assert points == pytest.approx(-100 * right[0])
    assert red["ahead"]["single"].keys() == {"gIoU", "cIoU"}
    assert main(["eval", *map(str, bundles), "--tasks", "vqa", *FEW]) == 0
    quality, cost = capsys.readouterr().out.split("\n\n")
    assert quality.splitlines()[0].split() == ["bundle", "task", "phrases", "accuracy"]
    assert cost.splitlines()[1].split()[1] == "-", "no masks, no time of a frame"


def test_words_are_asked_of_no_system_without_them(tiny_bundle, capsys):
    assert main(["eval", str(tiny_bundle), "--tasks", "vqa", *FEW]) == 2
    assert "must go to a system with a language model; tiny" in capsys.readouterr().err


def clips(capsys, *words) -> str:
    assert main(["eval", *map(str, words), "--clips", "1", *CPU]) == 0
    return capsys.readouterr().out


def test_things_are_followed_through_clips(tiny_bundle, capsys):
    (found,) = json.loads(clips(capsys, tiny_bundle, "--every", "20", "--json"))
    assert (found["bundle"], found["data"], found["clips"]) == ("tiny", "world:test", 1)
    ways = found["ways"]
    assert list(ways) == ["every frame", "every 20, tracked", "every 20, held", "every 40, tracked"]
    for values in ways.values():
        assert values["masks"] == ways["every frame"]["masks"] > 0
        assert all(0 <= values[name] <= 1 for name in ("J", "F", "J&F"))
    assert ways["every frame"]["speed-up"] == 1


def test_a_person_reads_a_row_for_each_way(tiny_bundle, capsys):
    header, *rows = clips(capsys, tiny_bundle, "--data", "world:val").splitlines()
    assert header.split()[:6] == ["bundle", "way", "masks", "J", "F", "J&F"]
    assert [row.split()[0] for row in rows] == ["tiny"] * 4
    assert "every 5, tracked" in rows[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--clips", "1", "--phrases", "6"], "--clips ask their own phrases"),
        (["--clips", "1", "--wrong-words"], "--clips ask their own phrases"),
        (["--every", "5"], "add --clips N"),
        (["--wrong-words", "--tasks", "single,vqa"], "--wrong-words asks for masks; got vqa"),
        (["--clips", "0"], "whole number from 1"),
    ],
)
def test_flags_that_do_not_go_together(tiny_bundle, capsys, words, said):
    assert main(["eval", str(tiny_bundle), *CPU, *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--data", "coco"], 2, "--data must be one of world:test, world:train, world:val; got"),
        (["--data", "world:dev"], 2, "got 'world:dev'"),
        (["--tasks", "single,chat"], 2, "one of multi, part, semantic, single, vqa; got 'chat'"),
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
