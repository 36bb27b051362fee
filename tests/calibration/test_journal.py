"""Measurements outlive the search that made them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from saymask.calibration.journal import Journal
from saymask.runtime.errors import OutputError

_ENDLESS = """
import itertools, sys
from pathlib import Path
from saymask.calibration.journal import Journal
journal = Journal(Path(sys.argv[1]), data="d")
for number in itertools.count():
    journal.measured("square", {"number": number}, lambda: {"square": number * number})
    print(number, flush=True)
"""


def _fail() -> dict[str, float]:
    raise AssertionError("it is known already")


def test_what_was_measured_is_not_measured_again(tmp_path):
    path = tmp_path / "work" / "journal.jsonl"
    first = Journal(path, data="d")
    assert first.measured("half", {"of": 3}, lambda: {"half": 1.5}) == {"half": 1.5}
    assert first.measured("half", {"of": 3}, _fail) == {"half": 1.5}
    assert Journal(path, data="d").measured("half", {"of": 3}, _fail) == {"half": 1.5}
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "what", "facts"),
    [("other", "half", {"of": 3}), ("d", "third", {"of": 3}), ("d", "half", {"of": 4})],
)
def test_other_data_other_facts_other_figures(tmp_path, data, what, facts):
    path = tmp_path / "journal.jsonl"
    Journal(path, data="d").measured("half", {"of": 3}, lambda: {"half": 1.5})
    assert Journal(path, data=data).measured(what, facts, lambda: {"half": 7}) == {"half": 7}


def test_without_a_file_it_remembers_while_it_lives():
    journal = Journal(None)
    assert journal.measured("one", {}, lambda: {"one": 1}) == {"one": 1}
    assert journal.measured("one", {}, _fail) == {"one": 1}


def test_a_killed_search_keeps_all_that_it_finished(tmp_path):
    path = tmp_path / "journal.jsonl"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _ENDLESS, str(path)], stdout=subprocess.PIPE, text=True
    ) as search:
        assert search.stdout is not None
        finished = [int(search.stdout.readline()) for _ in range(20)]
        search.send_signal(signal.SIGKILL)
    journal = Journal(path, data="d")
    for number in finished:
        assert journal.measured("square", {"number": number}, _fail) == {"square": number**2}


@pytest.mark.parametrize("torn", ['{"key": "ab', "[]", '{"key": 1, "figures": 2}', "\xff\x00"])
def test_a_torn_line_is_skipped_and_the_next_one_whole(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    Journal(path).measured("one", {}, lambda: {"one": 1})
    with path.open("a", encoding="latin-1") as file:
        file.write(torn)
    Journal(path).measured("two", {}, lambda: {"two": 2})
    again = Journal(path)
    assert again.measured("one", {}, _fail) == {"one": 1}
    assert again.measured("two", {}, _fail) == {"two": 2}
    assert json.loads(path.read_text(errors="replace").splitlines()[-1])["what"] == "two"


def test_a_file_that_cannot_be_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="a search must keep its measurements in "):
        Journal(tmp_path)
