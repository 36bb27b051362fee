"""Large engines take turns; small ones stay open."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from saymask.calibration import turns
from saymask.calibration.quantize import candidates
from saymask.calibration.session import open_model
from saymask.calibration.trial import measure
from saymask.calibration.turns import Turns, weight_bytes
from saymask.runtime.errors import EngineError


def test_small_engines_stay_open(convolutions, images):
    room = Turns()
    one, other = (
        room.take(convolutions, partial(open_model, convolutions, threads=1)) for _ in "ab"
    )
    assert room.is_ready(one)
    assert room.is_ready(other)
    first = one.run(images[0])
    other.run(images[0])
    assert first.keys() == one.run(images[0]).keys()


def test_of_large_engines_one_is_open(convolutions, images, monkeypatch):
    monkeypatch.setattr(turns, "LARGE_BYTES", weight_bytes(convolutions))
    opened = []

    def open_engine():
        opened.append(open_model(convolutions, threads=1))
        return opened[-1]

    room = Turns()
    one, other = room.take(convolutions, open_engine), room.take(convolutions, open_engine)
    assert not opened
    first = one.run(images[0])
    assert room.is_ready(one)
    assert not room.is_ready(other)
    again = other.run(images[0])
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    with pytest.raises(EngineError, match="closed"):
        opened[0].run(images[0])
    one.run(images[0])
    one.run(images[0])
    assert len(opened) == 3
    one.close()
    with pytest.raises(EngineError, match="closed"):
        opened[2].run(images[0])


def test_large_candidates_are_measured_like_small_ones(convolutions, images, monkeypatch):
    found = candidates(convolutions, images)
    small = measure(found, images, threads=1, rounds=1)
    monkeypatch.setattr(turns, "LARGE_BYTES", 1)
    large = measure(found, images, threads=1, rounds=5, enough_s=0)
    assert [each.differences for each in large] == [each.differences for each in small]
    assert all(each.median_ms > 0 for each in large)
