"""A job runs in another interpreter, and what went wrong there is told here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from saymask.calibration.other_python import check_python, run_job
from saymask.runtime.errors import EngineError, MissingExtraError


@pytest.fixture
def run(tmp_path):
    """Runs a script as a job."""

    def run(script: str, *words: str, python: Path = Path(sys.executable)) -> None:
        job = tmp_path / "job.py"
        job.write_text(script)
        run_job(
            job,
            words,
            python=python,
            result=tmp_path / "out",
            missing=3,
            library="Stone",
            commands=("dig", "wash"),
            must="Stone must roll",
            otherwise="take wood",
        )

    return run


def test_its_words_and_its_isolation(run, tmp_path):
    (tmp_path / "wave.py").write_text("raise OSError('the one beside the job')")
    script = "import pathlib, sys, wave; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    run(script, str(tmp_path / "out"), "said")
    assert (tmp_path / "out").read_text() == "said"


def test_what_it_says_last_is_told(run):
    script = "import sys; [print(n) for n in range(20)]; sys.exit('no room')"
    with pytest.raises(
        EngineError,
        match=r"must roll; it ended with code 1 and said: 16 \| 17 \| 18 \| 19 \| no room; take "
        r"wood, or make its environment again with: dig; wash$",
    ):
        run(script)


def test_it_must_leave_a_result(run):
    with pytest.raises(EngineError, match="ended with code 0 and said: all is well; take wood"):
        run("print('all is well')")


def test_a_library_that_is_missing(run, tmp_path):
    wanted = (
        "Stone must be installed for .*, an environment of its own; .*; make it with: dig; wash"
    )
    with pytest.raises(MissingExtraError, match=wanted):
        run("import sys; print('no Stone'); sys.exit(3)")
    with pytest.raises(MissingExtraError, match="No such file"):
        run("", python=tmp_path / "python")


def test_an_interpreter_is_asked_for_its_modules(tmp_path):
    words = {"library": "Stone", "commands": ("dig", "wash")}
    check_python(Path(sys.executable), ("json", "numpy"), **words)
    wanted = "Stone must be installed for .*; No module named 'pebble'; make it with: dig; wash"
    with pytest.raises(MissingExtraError, match=wanted):
        check_python(Path(sys.executable), ("json", "pebble"), **words)
    with pytest.raises(MissingExtraError, match="No such file"):
        check_python(tmp_path / "python", ("json",), **words)
