"""Room is counted once for all that share it."""

from __future__ import annotations

from threading import RLock

import pytest

from saymask.runtime.errors import EngineError, PromptError
from saymask.runtime.language.cache import Cells, Place
from saymask.runtime.language.decoder import MAX_SEQUENCES


@pytest.fixture
def dropped() -> list[int]:
    return []


@pytest.fixture
def cells(dropped) -> Cells:
    return Cells(100, RLock(), dropped.append)


def test_shared_room_counts_once(cells, dropped):
    trunk = cells.claim(60, None)
    left, right = cells.claim(10, trunk), cells.claim(20, trunk)
    assert [cells.number(place) for place in (trunk, left, right)] == [0, 1, 2]
    assert cells.free == 10
    trunk.close()
    assert cells.free == 10
    left.close()
    assert cells.free == 20
    right.close()
    assert (cells.free, dropped) == (100, [0, 1, 2])
    assert cells.number(cells.claim(1, None)) == 0


def test_a_forgotten_place_is_given_back(cells, dropped):
    place = cells.claim(60, None)
    del place
    assert (cells.free, dropped) == (100, [0])


def test_what_was_never_filled(cells):
    place = cells.claim(60, None)
    branch = cells.claim(40, place)
    cells.shrink(branch, 30)
    assert cells.free == 30
    place.close()
    assert cells.free == 30


def test_no_room(cells):
    place = cells.claim(60, None)
    with pytest.raises(PromptError, match="room for 41 more tokens; 40 of 100 are free; close"):
        cells.claim(41, place)
    places = [cells.claim(0, place) for _ in range(MAX_SEQUENCES - 1)]
    with pytest.raises(PromptError, match=f"at most {MAX_SEQUENCES} at once"):
        cells.claim(1, None)
    places.pop()
    assert isinstance(cells.claim(1, None), Place)


def test_a_place_that_is_not_here(cells):
    other = Cells(100, RLock(), print)
    place = other.claim(1, None)
    with pytest.raises(EngineError, match="must be open and of this engine; this is not"):
        cells.claim(1, place)
    other.clear()
    with pytest.raises(EngineError, match="must be open"):
        other.number(place)
    place.close()
