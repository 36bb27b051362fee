"""Outputs are taken by position; a prefix is a context."""

from __future__ import annotations

from threading import RLock

import numpy as np
import pytest

from saymask.runtime.errors import EngineError
from saymask.runtime.language.cache import Cells
from saymask.runtime.language.values import Outputs, Prefix


def test_take():
    outputs = Outputs(hidden=np.arange(6.0).reshape(3, 2), logits=np.arange(12.0).reshape(3, 4))
    taken = outputs.take([2, 0, -1])
    assert taken.hidden[:, 0].tolist() == [4, 0, 4]
    assert taken.logits[:, 0].tolist() == [8, 0, 8]
    assert outputs.take([]).logits.shape == (0, 4)
    assert Outputs(hidden=None, logits=outputs.logits).take([1]).hidden is None


def test_a_prefix_ends_with_its_context():
    cells = Cells(10, RLock(), lambda _: None)
    outputs = Outputs(hidden=None, logits=np.zeros((1, 4)))
    with Prefix(tokens=3, outputs=outputs, last=outputs, place=cells.claim(3, None)) as prefix:
        assert cells.free == 7
    assert cells.free == 10
    with pytest.raises(EngineError, match="must be open"):
        cells.number(prefix.place)
