from xml.etree import ElementTree

import numpy as np
import pytest

from saymask.runtime.bench.closed_loop import spread_of
from saymask.runtime.bench.conditions import machine_conditions
from saymask.runtime.bench.stream import StreamRecord
from saymask.runtime.bench.stream_figures import figures_of, series_of
from saymask.runtime.bench.stream_report import (
    StreamReport,
    markdown_from_report,
    svg_from_report,
    text_from_report,
)


def _report(*, is_saturated: bool = True, told: bool = True, meters: tuple[str, ...] = ()):
    count, samples = 1000, 100
    times_s = 5 + np.arange(samples) / 2
    held = [300.0 * 2**20, 12.0, 9.0] if told else [np.nan] * 3
    record = StreamRecord(
        seconds=50.0,
        written_s=5 + np.arange(count) / 20,
        index=np.arange(count) * (3.0 if is_saturated else 1.0),
        age_ms=np.full(count, 90.0),
        engine_ms=np.full(count, 48.0),
        stages_ms=(("views", 5.0 * count), ("image", 48.0 * count)),
        sampled_s=times_s,
        holdings=np.tile(held, (samples, 1)),
        cpu_s=times_s,
        joules=np.stack([7.5 * times_s] * len(meters), axis=1)
        if meters
        else np.empty((samples, 0)),
    )
    figures = figures_of(
        record, engine_stages=("image",), meters=meters, idle_w=[2.5] * len(meters)
    )
    assert figures
    conditions = machine_conditions("cpu", 1) | {
        "bundle": "mini",
        "stream": "test://tabletop?fps=60",
        "fps": 60.0,
        "frame_hw": (1080, 1920),
        "phrases": 2,
        "seconds": 50.0,
        "warm_up_s": 5.0,
        "is_interrupted": False,
    }
    return StreamReport(
        conditions=conditions,
        figures=figures,
        engine_alone=spread_of([40.0] * 20),
        series=series_of(record),
    )


def test_the_text_says_every_figure_once():
    text = text_from_report(_report())
    assert "cpu, threads 1, 1920x1080 at 60 fps, 2 phrase(s), 50 s after 5 s of warm-up" in text
    assert "Overhead beyond the engines: 4.0%" in text
    assert "1.20 times as long as one by one" in text
    assert "p99 is 1.88 times the engines' p50" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("memory")] == ["flat"]
    assert "not measured; this machine tells no energy" in text


def test_energy_has_a_row_for_each_meter():
    text = text_from_report(_report(meters=("tegrastats module",)))
    (row,) = [line for line in text.splitlines() if line.startswith("tegrastats")]
    assert row.split()[2:] == ["2.5", "7.5", "0.375"]


def test_an_overhead_that_cannot_be_known_is_not_a_number():
    text = text_from_report(_report(is_saturated=False))
    assert "not measured; only before 0 of 1000 frames" in text


def test_markdown_holds_the_same_tables_and_the_picture():
    report = _report()
    text = markdown_from_report(report, "ages.svg")
    assert text.startswith("# mini on test://tabletop?fps=60\n")
    assert "![Ages and memory over time](ages.svg)" in text
    assert "| image | engine | 48 | 90.6% |" in text
    assert "](" not in markdown_from_report(report, None)


@pytest.mark.parametrize(("told", "panels"), [(True, 2), (False, 1)])
def test_memory_is_drawn_where_it_is_told(told, panels):
    root = ElementTree.fromstring(svg_from_report(_report(told=told)))
    words = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [word for word in words if word.startswith(("p50", "p99", "engines"))] == [
        "p50 90 ms",
        "p99 90 ms",
        "engines 48 ms",
    ]
    assert sum(", MiB" in word or ", ms" in word for word in words) == panels
