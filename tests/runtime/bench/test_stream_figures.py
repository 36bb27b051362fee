from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.bench.stream import StreamRecord
from saymask.runtime.bench.stream_figures import StreamFigures, figures_of, series_of

STAGES = ("image", "mask")


def _record(seconds: float = 100.0, rate_hz: float = 20.0, **changed) -> StreamRecord:
    """A source of 60 Hz, of whose frames each third is taken: 45 ms of engines in 50 ms."""
    count, samples = int(seconds * rate_hz), int(seconds * 2)
    record = StreamRecord(
        seconds=seconds,
        written_s=5 + np.arange(count) / rate_hz,
        index=300.0 + 3 * np.arange(count),
        age_ms=np.linspace(60, 61, count),
        engine_ms=np.full(count, 45.0),
        stages_ms=(("views", 5.0 * count), ("image", 30.0 * count), ("mask", 15.0 * count)),
        sampled_s=5 + np.arange(samples) / 2,
        holdings=np.tile([300.0 * 2**20, 12.0, 9.0], (samples, 1)),
        cpu_s=3 + np.arange(samples) * 0.4,
        joules=np.empty((samples, 0)),
    )
    return replace(record, **changed)


def _figures(record: StreamRecord, meters=(), idle_w=()) -> StreamFigures:
    figures = figures_of(record, engine_stages=STAGES, meters=meters, idle_w=idle_w)
    assert figures
    return figures


def test_numbers_that_are_left_out_are_drops():
    figures = _figures(_record())
    assert (figures.offered, figures.processed, figures.dropped) == (5998, 2000, 3998)
    assert figures.rate_hz == 20
    every = _record(index=np.arange(2000.0))
    assert _figures(every).dropped == 0


def test_ages_and_what_is_beyond_the_engines():
    figures = _figures(_record())
    assert figures.age.p50_ms == pytest.approx(60.5)
    assert figures.age_max_ms == 61
    assert figures.engine
    assert figures.engine.p99_ms == 45
    assert figures.beyond_engine.p50_ms == pytest.approx(15.5)


def test_the_goal_for_ages_is_a_ratio_and_work_is_told_a_frame():
    figures = _figures(_record())
    assert figures.age_to_engine == pytest.approx(61 / 45, rel=1e-3)
    assert figures.cpu_ms == pytest.approx(40)
    assert _figures(_record(seconds=4.0)).age_to_engine is None


def test_a_stall_counts_for_as_long_as_it_lasts():
    """Of a hundred seconds nothing comes for ten: of the frames, no age tells."""
    written_s = np.concatenate((np.arange(1000) / 20, 60 + np.arange(800) / 20))
    index = 60 * written_s
    stalled = _record(written_s=written_s, index=index, age_ms=np.full(1800, 60.0))
    stalled = replace(stalled, engine_ms=np.full(1800, 45.0))
    figures = _figures(stalled)
    assert figures.age.p99_ms == figures.age_max_ms == 60
    assert figures.newest_age.p50 == pytest.approx(60 + 50 / 2, abs=5)
    assert figures.newest_age.p99 == pytest.approx(60 + 9_000, rel=0.02)
    assert figures.newest_age_max_ms == pytest.approx(60 + 10_050)


def test_few_frames_have_no_p99():
    figures = _figures(_record(seconds=4.0))
    assert figures.processed == 80
    assert figures.age.p99_ms is None


def test_overhead_is_the_idle_share_while_frames_waited():
    figures = _figures(_record())
    assert figures.overhead_share == pytest.approx(0.1)
    assert figures.saturated == 1999


def test_times_without_a_waiting_frame_are_no_overhead():
    """In the end the source is slower than the engines, which then wait for it."""
    index = np.concatenate((3.0 * np.arange(1200), 3600.0 + np.arange(800)))
    written_s = np.concatenate((np.arange(1200) / 20, 60 + np.arange(800) / 5))
    figures = _figures(_record(index=index, written_s=written_s))
    assert figures.overhead_share == pytest.approx(0.1)
    assert figures.saturated == 1200


def test_seldom_drops_are_hiccups_and_no_measure_of_overhead():
    index = np.arange(2000.0) + np.arange(2000) // 10
    figures = _figures(_record(index=index))
    assert (figures.overhead_share, figures.saturated) == (None, 199)


def test_frames_that_no_engine_saw_are_not_fast_engines():
    engine_ms = np.where(np.arange(2000) % 5, 0.0, 45.0)
    engine = _figures(_record(engine_ms=engine_ms)).engine
    assert engine
    assert (engine.p50_ms, engine.count) == (45, 400)
    assert _figures(_record(engine_ms=np.zeros(2000))).engine is None


def test_stages_share_the_work():
    stages = _figures(_record()).stages
    assert [(stage.name, stage.mean_ms, stage.is_engine) for stage in stages] == [
        ("views", 5, False),
        ("image", 30, True),
        ("mask", 15, True),
    ]
    assert [stage.share for stage in stages] == pytest.approx([0.1, 0.6, 0.3])


def _held(mib: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    return np.stack((mib * 2**20, descriptors, np.full(len(mib), 9.0)), axis=1)


def test_a_leak_is_growing_and_noise_is_flat():
    times_s = np.arange(200) / 2
    noise = np.random.default_rng(0).normal(0, 1, 200)
    leak = _figures(_record(holdings=_held(300 + noise + 0.1 * times_s, 12 + times_s // 20)))
    assert leak.rss_growth
    assert leak.rss_growth.is_growing
    assert leak.rss_growth.per_hour == pytest.approx(360, rel=0.1)
    assert leak.rss_growth.over_run == pytest.approx(9, rel=0.1)
    assert leak.descriptor_growth
    assert leak.descriptor_growth.is_growing
    calm = _figures(_record(holdings=_held(300 + noise, np.full(200, 12.0))))
    assert calm.rss_growth
    assert not calm.rss_growth.is_growing
    assert calm.rss_growth.allowed == 4
    assert calm.descriptor_growth
    assert not calm.descriptor_growth.is_growing


def test_what_is_taken_at_first_is_no_leak():
    mib = np.where(np.arange(200) < 15, 200.0, 300.0)
    growth = _figures(_record(holdings=_held(mib, np.full(200, 12.0)))).rss_growth
    assert growth
    assert growth.over_run == pytest.approx(0, abs=1e-6)


def test_a_queue_that_fills_makes_ages_grow():
    flat, filling = _figures(_record()), _figures(_record(age_ms=np.linspace(60, 120, 2000)))
    assert flat.age_growth
    assert filling.age_growth
    assert not flat.age_growth.is_growing
    assert filling.age_growth.is_growing


def test_energy_is_power_and_joules_a_frame():
    times_s = 5 + np.arange(200) / 2
    record = _record(joules=np.stack((1000 + 8 * times_s, np.full(200, np.nan)), axis=1))
    one, other = _figures(record, ("module", "gone"), (3.0, np.nan)).energy
    assert (one.meter, one.idle_w, one.mean_w) == ("module", 3, pytest.approx(8))
    assert one.joules_per_frame == pytest.approx(0.4)
    assert (other.idle_w, other.mean_w, other.joules_per_frame) == (None, None, None)


def test_a_system_that_tells_nothing_leaves_gaps():
    record = _record(holdings=np.full((200, 3), np.nan))
    figures = _figures(record)
    assert figures.rss_growth is figures.descriptor_growth is figures.thread_growth is None
    assert set(series_of(record).rss_mib) == {None}


def test_a_window_without_frames_has_no_figures():
    none = np.empty(0)
    record = _record(written_s=none, index=none, age_ms=none, engine_ms=none)
    assert figures_of(record, engine_stages=STAGES, meters=(), idle_w=()) is None


def test_thinning_keeps_the_worst():
    age_ms = np.full(2000, 60.0)
    age_ms[1234] = 500
    series = series_of(_record(age_ms=age_ms))
    assert len(series.frame_s) == len(series.age_p50_ms) == 240
    assert max(series.age_max_ms) == 500
    assert max(series.age_p50_ms) == 60
    assert 100 <= len(series.sampled_s) == len(series.rss_mib) == len(series.descriptors) <= 240
