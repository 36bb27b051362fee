"""Rivals are found by name and get the bundle's own pre- and postprocessing."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from saymask.runtime.bench import rivals
from saymask.runtime.bench.closed_loop import Workload
from saymask.runtime.bench.rivals import (
    Ceiling,
    RivalRequest,
    measure_ceiling,
    open_rival,
    rival_names,
)
from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import MissingExtraError, UnknownNameError
from saymask.runtime.systems import open_system


def own(bundle, request):
    """Open the bundle's own engines."""
    return open_system(bundle, device="cpu", threads=request.workload.threads)


def low(bundle, request):
    """Know a ceiling without measuring."""
    return Ceiling(int8_gops=2.0, fp32_gops=1.0, stages=())


OFFERED = {
    "saymask.rivals": {"own": "offering:own", "lost": "saymask.no_such_module:open"},
    "saymask.ceilings": {"cpu": "offering:low"},
}


@pytest.fixture(autouse=True)
def _offered(monkeypatch):
    offering = ModuleType("offering")
    vars(offering).update(own=own, low=low)
    monkeypatch.setitem(sys.modules, "offering", offering)
    monkeypatch.setattr(
        rivals,
        "entry_points",
        lambda group: [EntryPoint(name, value, group) for name, value in OFFERED[group].items()],
    )


@pytest.fixture
def request_for(frame) -> RivalRequest:
    workload = Workload(
        frames=(frame,),
        phrases=("the red square",),
        device="cpu",
        threads=1,
        iterations=1,
        warm_up=0,
    )
    return RivalRequest(checkpoint=None, work=Path("unused"), workload=workload)


def test_names_are_known_without_an_import():
    assert rival_names() == ("lost", "own")


def test_a_rival_segments(tiny_bundle, request_for, frame):
    with open_rival("own", Bundle.read(tiny_bundle), request_for) as segmenter:
        masks = segmenter.segment(frame, "the red square")
    assert masks.labels == ("the red square",)
    assert np.count_nonzero(masks.boolean) > 500


def test_the_ceiling_comes_from_a_floor_above(tiny_bundle, request_for):
    assert measure_ceiling(Bundle.read(tiny_bundle), request_for).int8_gops == 2.0


def test_unknown_and_missing_rivals(tiny_bundle, request_for):
    bundle = Bundle.read(tiny_bundle)
    with pytest.raises(UnknownNameError, match="the rival must be one of lost, own; got 'egaer'"):
        open_rival("egaer", bundle, request_for)
    with pytest.raises(MissingExtraError, match=r"the rival lost needs .*saymask\[rivals\]"):
        open_rival("lost", bundle, request_for)
