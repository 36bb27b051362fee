"""Rivals beside a bundle, and what their masks have in common."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from saymask.runtime.bench import rivals
from saymask.runtime.bench.rivals import Ceiling, StageCeiling
from saymask.runtime.cli import main
from saymask.runtime.systems import open_system

CPU = ("--device", "cpu", "--threads", "1", "--iterations", "12")


def own(bundle, request):
    """Open the bundle's own engines as a rival."""
    return open_system(bundle, device="cpu", threads=request.workload.threads)


class _Blind:
    """An engine that finds nothing."""

    device = "cpu"

    def __init__(self, engine):
        self.stage = engine.stage
        self._engine = engine

    def run(self, inputs):
        return {name: array - 1e3 for name, array in self._engine.run(inputs).items()}

    def close(self):
        self._engine.close()


def blind(bundle, request):
    """Open a rival whose masks are empty."""
    system = own(bundle, request)
    return system.with_engines(lambda e: _Blind(e) if e.stage.name == "mask" else e)


def low(bundle, request):
    """Count ten million operations for one stage."""
    stage = StageCeiling(stage="image", operations=10**7, int8_gops=100.0, fp32_gops=50.0)
    return Ceiling(int8_gops=200.0, fp32_gops=60.0, stages=(stage,))


@pytest.fixture(autouse=True)
def _offered(monkeypatch):
    offering = ModuleType("offering")
    vars(offering).update(own=own, blind=blind, low=low)
    monkeypatch.setitem(sys.modules, "offering", offering)
    offered = {
        rivals.GROUP: {"eager": "offering:own", "blind": "offering:blind"},
        rivals.CEILINGS: {"cpu": "offering:low"},
    }
    monkeypatch.setattr(
        rivals,
        "entry_points",
        lambda group: [EntryPoint(name, value, group) for name, value in offered[group].items()],
    )


def _report(capsys, *words) -> dict:
    assert main(["bench", *map(str, words), "--json", *CPU]) == 0
    return json.loads(capsys.readouterr().out)


def test_rivals_run_beside_the_bundle(tiny_bundle, image_file, capsys):
    words = (tiny_bundle, "--compare", "eager,blind,ours", "--source", image_file)
    report = _report(capsys, *words)
    assert [each["rival"] for each in report["rivals"]] == ["ours", "eager", "blind"]
    ours, eager, blinded = report["rivals"]
    assert ours["mean_iou"] == eager["mean_iou"] == 1
    assert blinded["mean_iou"] < 1
    image = ours["stages"]["image"]
    assert image["gops"] == pytest.approx(10 / image["p50_ms"])
    assert image["of_int8"] == pytest.approx(image["gops"] / 100)
    assert "gops" not in ours["stages"]["end to end"]
    ratios = {(each["rival"], each["stage"]): each for each in report["ratios"]}
    assert ratios["ours", "prompt"]["value"] == 1
    whole = ratios["eager", "end to end"]
    assert 0 < whole["low"] <= whole["value"] <= whole["high"]
    assert report["ceiling"]["int8_gops"] == 200


def test_masks_are_held_against_eager_that_does_not_run(tiny_bundle, capsys):
    report = _report(capsys, tiny_bundle, "--compare", "ours,blind", tiny_bundle)
    assert [each["rival"] for each in report["rivals"]] == ["ours", "blind", str(tiny_bundle)]
    assert report["rivals"][2]["mean_iou"] == 1


def test_a_person_reads_tables(tiny_bundle, capsys):
    assert main(["bench", str(tiny_bundle), "--compare", "blind", *CPU]) == 0
    conditions, figures, ceiling = capsys.readouterr().out.split("\n\n")
    assert "12 rounds after 10" in conditions
    lines = figures.splitlines()
    assert len([line for line in lines if "end to end" in line]) == 2
    assert any("%" in line for line in lines[1:])
    assert ceiling.splitlines()[-1].split() == ["any,", "at", "best", "-", "200", "60"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--checkpoint", "x"), "--checkpoint must come with rivals in --compare, of blind, eager"),
        (("--work", "x", "--compare", "other"), "--work must come with rivals"),
        (("--compare", "eager", "--device", "cuda"), "rivals run on the CPU; got --device cuda"),
    ],
)
def test_wrong_calls_end_in_one_line(tiny_bundle, capsys, words, said):
    assert main(["bench", str(tiny_bundle), *words]) == 2
    assert said in capsys.readouterr().err
