from __future__ import annotations

import itertools

import pytest

from saymask.runtime.errors import UnknownNameError
from saymask.train.world.catalogue import SPLITS
from saymask.train.world.chance import chance


def test_every_argument_opens_its_own_stream() -> None:
    first_draws = {
        chance(purpose, split, seed, frame=frame).random()
        for purpose, split, seed, frame in itertools.product(
            ("layout", "surface", "sensor", "motion"), SPLITS, range(5), range(3)
        )
    }
    assert len(first_draws) == 4 * 3 * 5 * 3


def test_a_stream_repeats() -> None:
    assert chance("layout", "val", 7).random() == chance("layout", "val", 7).random()


def test_an_unknown_split_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="test, train, val; got 'dev'"):
        chance("layout", "dev", 0)
