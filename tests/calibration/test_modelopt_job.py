"""The job that runs in ModelOpt's environment reads its folder, and says when it is in another."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from saymask.calibration.modelopt_job import GRAPH, MISSING, NAMES, Feeds, quantize


@pytest.fixture
def folder(tmp_path):
    """Three runs of a graph with two inputs, one of varying length."""
    (tmp_path / NAMES).write_text(json.dumps(["file", "ids"]))
    for number in range(3):
        np.savez(tmp_path / f"{number:06d}.npz", np.float32([number]), np.arange(number))
    return tmp_path


def _lengths(feeds: Feeds) -> list[int]:
    found = []
    while (feed := feeds.get_next()) is not None:
        found.append(len(feed["ids"]))
    return found


def test_runs_come_in_order(folder):
    feeds = Feeds(folder)
    assert _lengths(feeds) == [0, 1, 2]
    assert feeds.get_next() is None
    feeds.rewind()
    assert _lengths(feeds) == [0, 1, 2]


def test_the_first_run_is_looked_at_without_being_taken(folder):
    feeds = Feeds(folder)
    assert list(feeds.get_first()) == ["file", "ids"]
    assert _lengths(feeds) == [0, 1, 2]


@pytest.mark.skipif(bool(importlib.util.find_spec("modelopt")), reason="it is installed here")
def test_another_environment(folder, capsys):
    (folder / GRAPH).touch()
    assert quantize(folder, "int8", "max") == MISSING
    assert "modelopt" in capsys.readouterr().err
