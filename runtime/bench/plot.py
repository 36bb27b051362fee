"""Curves over time as an SVG picture: panels one below the other on one axis of seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curve", "Level", "Panel", "svg_from_panels"]

_WIDTH, _PANEL_HEIGHT, _GAP = 960, 250, 52
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 112, 52
_PLOT_WIDTH = _WIDTH - _LEFT - _RIGHT
_TICKS = 5
_LABEL_PITCH = 17
_LEGEND_PITCH = 84
_MARGIN = 0.06
_X_TITLE = "seconds since the first masks"
_INK, _FAINT_INK, _GRID = "#1f2933", "#64707d", "#e4e8ec"
_FONT = "system-ui, 'Segoe UI', 'Liberation Sans', 'DejaVu Sans', Arial, sans-serif"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line through points."""

    label: str
    """Its name in the legend."""
    xs: Sequence[float]
    """Seconds, rising; at least one."""
    ys: Sequence[float]
    """As many values."""
    color: str
    """CSS color."""
    is_filled: bool
    """True to tint what lies below it and draw the line itself faintly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A dashed line at one height, named at the right edge."""

    label: str
    """For example "p99 41.3 ms"."""
    y: float
    """Its height."""
    color: str
    """CSS color."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    """What it shows, with the unit."""
    curves: tuple[Curve, ...]
    """At least one, the first one lowest."""
    levels: tuple[Level, ...]
    """May be none."""
    least_span: float
    """The axis covers at least this much, so that noise does not look like a change."""
    starts_at_zero: bool
    """True to begin the axis at 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    from_px: float
    to_px: float

    def px(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return round(self.from_px + part * (self.to_px - self.from_px), 1)

    def ticks(self) -> list[float]:
        """Round values (1, 2 or 5 times a power of ten apart) inside the axis."""
        rough = (self.high - self.low) / _TICKS
        power = 10 ** math.floor(math.log10(rough))
        pitch = next(power * step for step in (1, 2, 5, 10) if power * step >= rough)
        first, last = math.ceil(self.low / pitch - 1e-9), math.floor(self.high / pitch + 1e-9)
        return [number * pitch for number in range(first, last + 1)]


def svg_from_panels(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """Draw panels.

    Args:
        title: What was measured.
        subtitle: On what, in one line.
        panels: At least one.

    Returns:
        The text of an SVG file.
    """
    height = _TOP + len(panels) * (_PANEL_HEIGHT + _GAP) - _GAP + _BOTTOM
    seconds = [x for panel in panels for curve in panel.curves for x in curve.xs]
    across = _Axis(
        low=min(seconds),
        high=max(max(seconds), min(seconds) + 1e-3),
        from_px=_LEFT,
        to_px=_LEFT + _PLOT_WIDTH,
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="{_FONT}" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(_LEFT, 36, title, size=19, weight=600),
        _text(_LEFT, 59, subtitle, fill=_FAINT_INK),
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, across, _TOP + number * (_PANEL_HEIGHT + _GAP))
    foot = height - _BOTTOM
    parts += [_text(across.px(x), foot + 20, f"{x:g}", anchor="middle") for x in across.ticks()]
    parts.append(_text(_LEFT + _PLOT_WIDTH / 2, foot + 39, _X_TITLE, _FAINT_INK, "middle"))
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, across: _Axis, top: int) -> list[str]:
    up = _upward(panel, top)
    left, right, bottom = _LEFT, _LEFT + _PLOT_WIDTH, top + _PANEL_HEIGHT
    parts = [_text(left, top - 12, panel.title, weight=600), *_legend(panel, right, top - 12)]
    for y in up.ticks():
        parts.append(_line(left, up.px(y), right, up.px(y), _GRID))
        parts.append(_text(left - 9, up.px(y) + 4.5, f"{y:g}", _FAINT_INK, "end"))
    for x in across.ticks():
        parts.append(_line(across.px(x), bottom, across.px(x), bottom + 5, _FAINT_INK))
    for curve in panel.curves:
        parts += _curve(curve, across, up, bottom)
    parts.append(_line(left, bottom, right, bottom, _FAINT_INK))
    names_px = _apart([up.px(level.y) for level in panel.levels])
    for level, name_px in zip(panel.levels, names_px, strict=True):
        parts.append(_line(left, up.px(level.y), right, up.px(level.y), level.color, dash="5 4"))
        parts.append(_text(right + 9, name_px + 4.5, level.label, level.color))
    return parts


def _upward(panel: Panel, top: int) -> _Axis:
    values = [y for curve in panel.curves for y in curve.ys] + [level.y for level in panel.levels]
    low, high = min(values), max(values)
    if panel.starts_at_zero:
        low = min(low, 0.0)
        high = max(high, low + panel.least_span)
    else:
        missing = max(0.0, panel.least_span - (high - low))
        margin = missing / 2 + _MARGIN * (high - low + missing)
        low, high = low - margin, high + margin
    room = _MARGIN * (high - low) if panel.starts_at_zero else 0.0
    return _Axis(low=low, high=high + room, from_px=top + _PANEL_HEIGHT, to_px=top)


def _curve(curve: Curve, across: _Axis, up: _Axis, bottom: float) -> list[str]:
    points = [f"{across.px(x)},{up.px(y)}" for x, y in zip(curve.xs, curve.ys, strict=True)]
    line = (
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{curve.color}" '
        f'stroke-width="{1 if curve.is_filled else 2}" stroke-linejoin="round" '
        f'stroke-opacity="{0.45 if curve.is_filled else 1}"/>'
    )
    if not curve.is_filled:
        return [line]
    first, last = across.px(curve.xs[0]), across.px(curve.xs[-1])
    area = [f"{first},{bottom}", *points, f"{last},{bottom}"]
    return [f'<polygon points="{" ".join(area)}" fill="{curve.color}" fill-opacity="0.16"/>', line]


def _legend(panel: Panel, right: float, y: float) -> list[str]:
    """Name the curves at the right end of the title's line, when there are several."""
    parts, at = [], right - _LEGEND_PITCH * len(panel.curves)
    for curve in panel.curves if len(panel.curves) > 1 else ():
        at += _LEGEND_PITCH
        height, opacity = (9, 0.35) if curve.is_filled else (2, 1)
        parts.append(
            f'<rect x="{at - 70}" y="{y - 4.5 - height / 2}" width="16" height="{height}" '
            f'fill="{curve.color}" fill-opacity="{opacity}"/>'
        )
        parts.append(_text(at - 47, y, curve.label, _FAINT_INK))
    return parts


def _apart(places_px: list[float]) -> list[float]:
    """Push names apart that would overlap, downwards; the order stays."""
    moved, free = {}, -math.inf
    for number in sorted(range(len(places_px)), key=places_px.__getitem__):
        moved[number] = max(places_px[number], free)
        free = moved[number] + _LABEL_PITCH
    return [moved[number] for number in range(len(places_px))]


def _line(x1: float, y1: float, x2: float, y2: float, color: str, dash: str = "none") -> str:
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}" '
        f'stroke-dasharray="{dash}"/>'
    )


def _text(
    x: float,
    y: float,
    words: str,
    fill: str = _INK,
    anchor: str = "start",
    *,
    size: int = 13,
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x}" y="{y}" fill="{fill}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )
