"""A stream's figures for a person: tables as text or Markdown, and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..table import table
from .closed_loop import Spread
from .conditions import machine_text
from .plot import Curve, Level, Panel, svg_from_panels
from .stream_figures import Growth, StreamFigures, StreamSeries

__all__ = ["StreamReport", "markdown_from_report", "svg_from_report", "text_from_report"]

_ROUNDING = 1e-6
"""A smaller slope comes from the arithmetic of the fit."""

_BLUE, _TEAL, _RED, _DARK, _GRAY = "#2f6fde", "#0f766e", "#c2410c", "#1f2933", "#64707d"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """All that is said of one run."""

    conditions: dict[str, Any]
    """What ran where on what; see `conditions.machine_conditions`."""
    figures: StreamFigures
    """What came out."""
    engine_alone: Spread
    """Engine time of single frames one after the other, before the stream, with nothing else."""
    series: StreamSeries
    """The course of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A table, and sentences below it."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    sentences: tuple[str, ...] = ()


def text_from_report(report: StreamReport) -> str:
    """Write tables for a terminal."""
    parts = [_conditions_text(report.conditions)]
    for section in _sections(report):
        if section.rows:
            parts.append(table(section.header, section.rows))
        parts += section.sentences
    return "\n\n".join(parts)


def markdown_from_report(report: StreamReport, picture: str | None) -> str:
    """Write Markdown; `picture` is where the plot lies, seen from there."""
    conditions = report.conditions
    parts = [f"# {conditions['bundle']} on {conditions['stream']}"]
    parts += _conditions_text(conditions).splitlines()
    if picture:
        parts.append(f"![Ages and memory over time]({picture})")
    for section in _sections(report):
        if section.rows:
            rows = [section.header, ["---"] * len(section.header), *section.rows]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
        parts += section.sentences
    return "\n\n".join(parts) + "\n"


def svg_from_report(report: StreamReport) -> str:
    """Draw ages and, where the system tells it, memory over time."""
    conditions = report.conditions
    panels = [_age_panel(report.figures, report.series)]
    rss_mib = [mib for mib in report.series.rss_mib if mib is not None]
    if report.figures.rss_growth and len(rss_mib) == len(report.series.sampled_s):
        panels.append(
            Panel(
                title="memory of the process, MiB",
                curves=(_curve("resident", report.series.sampled_s, rss_mib, _TEAL),),
                levels=(),
                least_span=2 * report.figures.rss_growth.allowed,
                starts_at_zero=False,
            )
        )
    title = f"{conditions['bundle']} on {conditions['stream']}"
    return svg_from_panels(title, _conditions_text(conditions).splitlines()[-1], panels)


def _age_panel(figures: StreamFigures, series: StreamSeries) -> Panel:
    levels = (
        ("p50", figures.age.p50_ms, _DARK),
        ("p99", figures.age.p99_ms, _RED),
        ("engines", figures.engine and figures.engine.p50_ms, _GRAY),
    )
    return Panel(
        title="age of the masks, ms from capture",
        curves=(
            _curve("oldest", series.frame_s, series.age_max_ms, _BLUE, is_filled=True),
            _curve("median", series.frame_s, series.age_p50_ms, _BLUE),
        ),
        levels=tuple(
            Level(label=f"{name} {_number(ms)} ms", y=ms, color=color)
            for name, ms, color in levels
            if ms is not None
        ),
        least_span=1.0,
        starts_at_zero=True,
    )


def _curve(
    label: str, xs: Sequence[float], ys: Sequence[float], color: str, *, is_filled: bool = False
) -> Curve:
    return Curve(label=label, xs=xs, ys=ys, color=color, is_filled=is_filled)


def _conditions_text(conditions: dict[str, Any]) -> str:
    height, width = conditions["frame_hw"]
    rate = conditions["fps"]
    end = " (interrupted)" if conditions["is_interrupted"] else ""
    return (
        f"{machine_text(conditions)}\n"
        f"{conditions['device']}, threads {conditions['threads'] or 'one a core'}, "
        f"{width}x{height} at {f'{rate:g}' if rate else 'its own'} fps, "
        f"{conditions['phrases']} phrase(s), {conditions['seconds']:g} s "
        f"after {conditions['warm_up_s']:g} s of warm-up{end}"
    )


def _sections(report: StreamReport) -> Iterator[_Section]:
    figures = report.figures
    yield _Section(
        header=("offered", "written", "dropped", "seconds", "frames a second", "CPU ms a frame"),
        rows=[
            (
                *(str(count) for count in (figures.offered, figures.processed, figures.dropped)),
                f"{figures.seconds:.1f}",
                f"{figures.rate_hz:.2f}",
                _number(figures.cpu_ms),
            )
        ],
    )
    newest = figures.newest_age
    times_ms = [
        ("capture to masks", *_percentiles(figures.age), figures.age_max_ms),
        ("newest masks, over time", newest.p50, newest.p90, newest.p99, figures.newest_age_max_ms),
        ("beyond the engines", *_percentiles(figures.beyond_engine), None),
        ("engines, frames one by one", *_percentiles(report.engine_alone), None),
    ]
    if figures.engine:
        times_ms.insert(2, ("engines", *_percentiles(figures.engine), None))
    yield _Section(
        header=("time", "p50 ms", "p90 ms", "p99 ms", "max ms"),
        rows=[(name, *map(_number, row)) for name, *row in times_ms],
        sentences=tuple(_sentences(report)),
    )
    yield _Section(
        header=("stage", "runs on", "ms a frame", "share"),
        rows=[
            (stage.name, "engine" if stage.is_engine else "host", _number(stage.mean_ms))
            + (f"{stage.share:.1%}",)
            for stage in figures.stages
        ],
    )
    yield _Section(
        header=("quantity", "median", "over the run", "an hour", "flat up to", "verdict"),
        rows=list(_growth_rows(figures)),
    )
    yield _energy(figures)


def _percentiles(spread: Spread) -> tuple[float, float, float | None]:
    return spread.p50_ms, spread.p90_ms, spread.p99_ms


def _sentences(report: StreamReport) -> Iterator[str]:
    figures = report.figures
    if figures.overhead_share is None:
        yield (
            "Overhead beyond the engines: not measured; only before "
            f"{figures.saturated} of {figures.processed} frames did another one wait. "
            "Offer more frames a second."
        )
    else:
        yield (
            f"Overhead beyond the engines: {figures.overhead_share:.1%} of the time in which a "
            f"frame waited for them ({figures.saturated} times) they stood idle."
        )
    if figures.engine:
        slowdown = figures.engine.p50_ms / report.engine_alone.p50_ms
        yield f"In the stream, the engines take {slowdown:.2f} times as long as one by one."
    if figures.age_to_engine:
        yield f"The age's p99 is {figures.age_to_engine:.2f} times the engines' p50."


def _growth_rows(figures: StreamFigures) -> Iterator[tuple[str, ...]]:
    named: tuple[tuple[str, Growth | None], ...] = (
        ("age, ms", figures.age_growth),
        ("memory, MiB", figures.rss_growth),
        ("open files", figures.descriptor_growth),
        ("threads", figures.thread_growth),
    )
    for name, growth in named:
        if growth:
            changes = (_change(growth.over_run), _change(growth.per_hour))
            verdict = "growing" if growth.is_growing else "flat"
            yield name, _number(growth.median), *changes, _number(growth.allowed), verdict


def _energy(figures: StreamFigures) -> _Section:
    if not figures.energy:
        return _Section(
            header=(), rows=(), sentences=("Energy: not measured; this machine tells no energy.",)
        )
    return _Section(
        header=("meter", "idle W", "mean W", "J a frame"),
        rows=[
            (row.meter, *map(_number, (row.idle_w, row.mean_w, row.joules_per_frame)))
            for row in figures.energy
        ],
    )


def _change(value: float) -> str:
    return "0" if abs(value) < _ROUNDING else f"{value:+.3g}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
