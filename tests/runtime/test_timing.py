"""Laps come in order; percentiles are those of NumPy."""

from __future__ import annotations

import time

import pytest

from saymask.runtime.timing import Percentiles, Stopwatch, percentiles_ms


def test_laps_in_order():
    watch = Stopwatch()
    with watch.lap("sleep"):
        time.sleep(0.01)
    with watch.lap("nothing"):
        pass
    (first, slept_ms), (second, nothing_ms) = watch.laps_ms
    assert (first, second) == ("sleep", "nothing")
    assert slept_ms >= 10 > nothing_ms


def test_laps_of_one_name_add_up():
    watch = Stopwatch()
    for name in ("sleep", "nothing", "sleep"):
        with watch.lap(name):
            time.sleep(0.005 * (name == "sleep"))
    (first, slept_ms), (second, _) = watch.laps_ms
    assert (first, second) == ("sleep", "nothing")
    assert slept_ms >= 10


def test_a_failed_lap_is_not_noted():
    watch = Stopwatch()
    with pytest.raises(KeyError), watch.lap("broken"):
        raise KeyError
    assert watch.laps_ms == ()


def test_percentiles():
    assert percentiles_ms([3.0]) == Percentiles(p50=3, p90=3, p99=3)
    assert percentiles_ms(range(101)) == Percentiles(p50=50, p90=90, p99=99)
