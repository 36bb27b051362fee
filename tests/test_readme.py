"""What the README says holds."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from saymask.runtime.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
FENCES = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = sorted(
    {
        line[2:].split("#")[0].strip()
        for kind, body in FENCES
        if kind == "console"
        for line in body.splitlines()
        if line.startswith("$ ")
    }
)


def test_code_comes_early() -> None:
    lines = TEXT.splitlines()
    assert next(number for number, line in enumerate(lines, 1) if line.startswith("```")) <= 25


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links_resolve(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = shlex.split(command)
    if program == "make":
        assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text()
        return
    assert program == "saymask"
    assert main([words[0], "--help"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in words if word.startswith("--"))


def test_the_python_snippet_runs(
    tiny_bundle: Path, frame: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = (body for kind, body in FENCES if kind == "python")
    exec(snippet.replace("evf-sam-mini-int8", str(tiny_bundle)), {"frame": frame})
    assert "(2, " in capsys.readouterr().out


def test_every_folder_and_verb_is_named() -> None:
    for folder in ("kernels", "runtime", "calibration", "export", "train", "jetson"):
        assert f"`{folder}/`" in TEXT
