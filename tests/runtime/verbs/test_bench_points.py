"""`saymask bench --points` times questions about points where a system asks them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from saymask.runtime.cli import main

from .. import chat_bundle
from ..chat_bundle import PROTOCOL


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    pytest.importorskip("xllamacpp")
    return str(chat_bundle.write(tmp_path_factory.mktemp("bundles") / "chat"))


def test_a_row_for_each_way_and_number(folder, capsys):
    words = ["bench", folder, "--points", "--iterations", "1", "--threads", "1"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["count"] for row in report["points"]] == [1] * 3 + [4] * 3 + [5] * 3 + [9] * 3
    assert all(row["is_same"] for row in report["points"])
    assert report["beginning_tokens"] > report["question_tokens"] > 5
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "one by one" in told
    assert f"{report['beginning_tokens']} tokens before up to" in told


def test_a_system_without_such_questions(tiny_bundle, tmp_path, capsys):
    assert main(["bench", str(tiny_bundle), "--points"]) == 2
    assert "--points needs a system that asks a language model" in capsys.readouterr().err
    ppg = chat_bundle.write(tmp_path / "ppg", protocol=replace(PROTOCOL, variant="ppg"))
    assert main(["bench", str(ppg), "--points"]) == 2
    assert "as it is set up does not" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("other", [["--compare", "other"], ["--stream", "test://tabletop"]])
def test_flags_that_do_not_go_together(tiny_bundle, other, capsys):
    assert main(["bench", str(tiny_bundle), "--points", *other]) == 2
    assert "--points must stand without" in capsys.readouterr().err
