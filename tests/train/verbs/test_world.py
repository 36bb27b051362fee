from __future__ import annotations

import argparse
import json

import pytest

from saymask.runtime.errors import OutputError, UnknownNameError, UsageError
from saymask.train.verbs import world as verb


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(word) for word in words]))


def test_stills_are_written_and_reported(tmp_path, capsys) -> None:
    out = tmp_path / "stills"
    words = ("--count", 2, "--size", "96x64", "--tasks", "single,part", "--sheet", "--json")
    assert run("stills", "--out", out, *words) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["pictures"] == 2
    assert report["phrases"] == len((out / "phrases.jsonl").read_text().splitlines())
    assert printed.err == ""


def test_clips_are_written(tmp_path, capsys) -> None:
    out = tmp_path / "clip.mp4"
    assert run("clip", "--out", out, "--seconds", 0.5, "--fps", 8, "--size", "96x64") == 0
    assert out.is_file()
    assert "frames 4" in capsys.readouterr().out


def test_data_sets_are_written(tmp_path, capsys) -> None:
    out = tmp_path / "data"
    words = ("--format", "refcoco", "--count", 2, "--size", "96x64", "--split", "val", "--json")
    assert run("write", "--out", out, *words) == 0
    assert json.loads(capsys.readouterr().out)["records"] > 2
    assert (out / "refcoco" / "refs(unc).p").is_file()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("stills", "--size", "640"), UsageError, "WIDTHxHEIGHT.*got '640'"),
        (("stills", "--size", "8x8"), UsageError, "got '8x8'"),
        (("stills", "--tasks", "single,chat"), UnknownNameError, "got 'chat'"),
        (("stills", "--split", "dev"), UnknownNameError, "got 'dev'"),
        (("stills", "--seed", "-1"), UsageError, "at least 0, got -1"),
        (("write", "--format", "voc"), UnknownNameError, "got 'voc'"),
        (("clip", "--seconds", "0"), UsageError, "at least 2, got 0"),
    ],
)
def test_bad_flags_say_what_must_hold(words, error, message, tmp_path) -> None:
    with pytest.raises(error, match=message):
        run(*words, "--out", tmp_path / "new.mp4")
    assert list(tmp_path.iterdir()) == []


def test_stills_never_replace_what_is_there(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="must not exist yet or be empty"):
        run("stills", "--out", tmp_path)
