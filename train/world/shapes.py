"""How each category looks: the painted outlines of its parts, from the back to the front.

Outlines live in the object's own coordinates: x right, y down, centred, about one unit across;
long things reach further. Upright things stand on their lowest point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .curves import oval, petals, rectangle, rounded, smooth, stroke, turned

PAINTS = {
    "metal": (188, 194, 204),
    "steel": (126, 132, 142),
    "dark": (52, 50, 54),
    "paper": (246, 240, 222),
    "glass": (176, 214, 232),
    "leaf": (82, 138, 48),
    "timber": (150, 108, 70),
    "bark": (96, 64, 40),
    "pollen": (232, 176, 44),
    "shine": (255, 255, 255),
}
"""Paints that do not follow the object's color -> RGB; "main", "main_dark" and "main_light" do."""

TOPS = {"book": (-0.05, 0.05), "box": (0.0, -0.24), "chair": (0.0, 0.12)}
"""Categories that others may stand on -> where, in unit coordinates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One painted outline of a part."""

    part: str
    """Name of the part it belongs to."""
    contours: tuple[np.ndarray, ...]
    """float64 (N, 2) closed polygons in unit coordinates; where two overlap is a hole."""
    paint: str
    """Key of `PAINTS`, or "main", "main_dark" or "main_light"."""
    roundness: float
    """How much its left and right edges darken: 0 is flat, 1 a cylinder."""
    opacity: float
    """1 covers; less lets what is below shine through."""
    has_outline: bool
    """True when its contour is drawn as a darker line."""


def _shape(
    part: str,
    *contours: np.ndarray,
    paint: str = "main",
    roundness: float = 0.0,
    opacity: float = 1.0,
    has_outline: bool = True,
) -> Shape:
    return Shape(
        part=part,
        contours=contours,
        paint=paint,
        roundness=roundness,
        opacity=opacity,
        has_outline=has_outline,
    )


def _shine(part: str, contour: np.ndarray, *, opacity: float = 0.45) -> Shape:
    return _shape(part, contour, paint="shine", opacity=opacity, has_outline=False)


def _ring(x: float, y: float, rx: float, ry: float, *, width: float) -> tuple[np.ndarray, ...]:
    return oval(x, y, rx, ry), oval(x, y, rx - width, ry - width)


def _apple() -> tuple[Shape, ...]:
    body = smooth(
        [
            (0.0, -0.22), (0.2, -0.34), (0.46, -0.22), (0.46, 0.12), (0.28, 0.44),
            (0.1, 0.48), (0.0, 0.42), (-0.1, 0.48), (-0.28, 0.44), (-0.46, 0.12),
            (-0.46, -0.22), (-0.2, -0.34),
        ]
    )  # fmt: skip
    leaf = smooth([(0.02, -0.3), (0.12, -0.48), (0.38, -0.5), (0.26, -0.3)], rounds=2)
    return (
        _shape("body", body, roundness=0.8),
        _shine("body", oval(-0.2, -0.08, 0.07, 0.11)),
        _shape("leaf", leaf, paint="leaf"),
        _shape("stem", stroke([(0, -0.2), (-0.02, -0.36), (-0.1, -0.52)], width=0.1), paint="bark"),
    )


def _book() -> tuple[Shape, ...]:
    back = rounded(rectangle(-0.35, -0.45, 0.45, 0.55), radius=0.04)
    pages = rectangle(-0.35, -0.45, 0.41, 0.5)
    cover = rounded(rectangle(-0.42, -0.54, 0.32, 0.4), radius=0.04)
    return (
        _shape("cover", back, paint="main_dark"),
        _shape("pages", pages, paint="paper"),
        _shape("pages", stroke([(-0.3, 0.45), (0.365, 0.45), (0.365, -0.4)], width=0.02),
               paint="timber", opacity=0.5, has_outline=False),
        _shape("cover", cover),
        _shape("cover", rectangle(-0.42, -0.52, -0.32, 0.38), paint="main_dark"),
        _shape("cover", rectangle(-0.2, -0.36, 0.2, -0.2), paint="paper"),
    )  # fmt: skip


def _bottle() -> tuple[Shape, ...]:
    profile = [(-0.09, -0.42), (-0.09, -0.3), (-0.22, -0.12), (-0.22, 0.52), (-0.16, 0.58)]
    body = np.array(profile + [(-x, y) for x, y in reversed(profile)])
    return (
        _shape("body", body, roundness=1.0),
        _shape("label", rectangle(-0.22, 0.02, 0.22, 0.34), paint="paper", roundness=0.7),
        _shape("cap", rounded(rectangle(-0.12, -0.58, 0.12, -0.4), radius=0.03), paint="steel"),
        _shine("body", rectangle(-0.15, -0.08, -0.1, 0.48)),
    )


def _box() -> tuple[Shape, ...]:
    top = np.array([(-0.36, -0.4), (0.36, -0.4), (0.5, -0.12), (-0.5, -0.12)])
    return (
        _shape("body", rectangle(-0.44, -0.05, 0.44, 0.44)),
        _shape("lid", top, paint="main_light"),
        _shape("lid", rectangle(-0.5, -0.12, 0.5, 0.05), paint="main_dark"),
    )


def _car() -> tuple[Shape, ...]:
    body = smooth(
        [
            (-0.74, 0.2), (-0.76, -0.02), (-0.66, -0.1), (-0.46, -0.14), (-0.28, -0.4),
            (0.24, -0.4), (0.46, -0.13), (0.7, -0.06), (0.78, 0.06), (0.76, 0.2),
        ],
        rounds=1,
    )  # fmt: skip
    rear = rounded([(-0.36, -0.12), (-0.22, -0.32), (-0.03, -0.32), (-0.03, -0.12)], radius=0.03)
    front = rounded([(0.04, -0.12), (0.04, -0.32), (0.2, -0.32), (0.35, -0.12)], radius=0.03)
    wheels = oval(-0.42, 0.2, 0.18, 0.18), oval(0.42, 0.2, 0.18, 0.18)
    hubs = oval(-0.42, 0.2, 0.08, 0.08), oval(0.42, 0.2, 0.08, 0.08)
    return (
        _shape("body", body),
        _shape("windows", rear, front, paint="glass"),
        _shape("body", rounded(rectangle(0.64, -0.03, 0.76, 0.06), radius=0.03), paint="pollen"),
        _shape("wheels", *wheels, paint="dark"),
        _shape("wheels", *hubs, paint="metal", has_outline=False),
    )


def _chair() -> tuple[Shape, ...]:
    frame = rounded(rectangle(-0.3, -0.62, 0.3, 0.08), radius=0.05)
    gaps = rectangle(-0.18, -0.3, -0.05, 0.0), rectangle(0.05, -0.3, 0.18, 0.0)
    seat = np.array([(-0.28, 0.0), (0.28, 0.0), (0.4, 0.2), (-0.4, 0.2)])
    legs = [
        rectangle(-0.38, 0.2, -0.28, 0.62), rectangle(0.28, 0.2, 0.38, 0.62),
        rectangle(-0.22, 0.2, -0.14, 0.48), rectangle(0.14, 0.2, 0.22, 0.48),
    ]  # fmt: skip
    return (
        _shape("legs", *legs, paint="timber"),
        _shape("back", frame, *gaps),
        _shape("seat", seat, paint="main_light"),
        _shape("seat", rectangle(-0.4, 0.2, 0.4, 0.28), paint="main_dark"),
    )


def _clock() -> tuple[Shape, ...]:
    feet = (
        stroke([(-0.2, 0.25), (-0.36, 0.5)], width=0.12),
        stroke([(0.2, 0.25), (0.36, 0.5)], width=0.12),
    )
    bells = (
        turned(oval(0, -0.44, 0.17, 0.13, start_deg=180, stop_deg=360), angle_deg=-38,
               about=(0, 0.02)),
        turned(oval(0, -0.44, 0.17, 0.13, start_deg=180, stop_deg=360), angle_deg=38,
               about=(0, 0.02)),
    )  # fmt: skip
    ticks = [
        oval(0.25 * np.cos(t), 0.02 + 0.25 * np.sin(t), 0.025, 0.025)
        for t in np.radians((0, 90, 180, 270))
    ]
    minute = stroke([(0, 0.05), (0.0, -0.2)], width=0.07)
    hour = stroke([(-0.03, 0.02), (0.17, 0.1)], width=0.08)
    return (
        _shape("frame", *feet, paint="steel"),
        _shape("frame", *bells),
        _shape("frame", oval(0, 0.02, 0.43, 0.43), roundness=0.4),
        _shape("face", oval(0, 0.02, 0.31, 0.31), paint="paper"),
        _shape("face", *ticks, paint="dark", has_outline=False),
        _shape("hands", minute, paint="dark", has_outline=False),
        _shape("hands", hour, paint="dark", has_outline=False),
    )


def _flower() -> tuple[Shape, ...]:
    pot = [(-0.26, 0.24), (0.26, 0.24), (0.18, 0.6), (-0.18, 0.6)]
    left = smooth([(0, 0.2), (-0.12, 0.0), (-0.4, -0.06), (-0.26, 0.16)])
    right = smooth([(0, 0.22), (0.12, 0.0), (0.42, -0.1), (0.28, 0.14)])
    return (
        _shape("leaves", stroke([(0, 0.26), (0.01, 0.0), (0, -0.2)], width=0.07), paint="leaf"),
        _shape("leaves", left, paint="leaf"),
        _shape("leaves", right, paint="leaf"),
        _shape("pot", np.array(pot), roundness=0.8),
        _shape("pot", rounded(rectangle(-0.3, 0.18, 0.3, 0.3), radius=0.03), paint="main_dark"),
        _shape("blossom", petals(0, -0.3, 0.32, count=6)),
        _shape("blossom", oval(0, -0.3, 0.11, 0.11), paint="pollen"),
    )


def _hammer() -> tuple[Shape, ...]:
    head = rounded(
        [(-0.66, -0.36), (-0.4, -0.36), (-0.38, 0.12), (-0.42, 0.3), (-0.62, 0.42),
         (-0.56, 0.2), (-0.62, 0.1)],
        radius=0.04,
    )  # fmt: skip
    return (
        _shape("handle", rounded(rectangle(-0.45, -0.1, 0.76, 0.1), radius=0.08)),
        _shape("head", head, paint="steel"),
        _shine("head", rectangle(-0.6, -0.32, -0.54, 0.06)),
    )


def _knife() -> tuple[Shape, ...]:
    blade = [(0.1, -0.13), (-0.56, -0.13), (-0.76, -0.06), (-0.86, 0.06), (-0.6, 0.14), (0.1, 0.12)]
    handle = [(0.06, -0.13), (0.6, -0.13), (0.76, -0.06), (0.76, 0.13), (0.06, 0.11)]
    return (
        _shape("blade", rounded(blade, radius=0.05), paint="metal"),
        _shine("blade", np.array([(0.05, -0.08), (-0.6, -0.08), (-0.7, -0.02), (0.05, -0.02)])),
        _shape("handle", rounded(handle, radius=0.05)),
        _shape("handle", oval(0.24, 0, 0.04, 0.04), oval(0.54, 0.02, 0.04, 0.04), paint="metal"),
    )


def _lamp() -> tuple[Shape, ...]:
    shade = [(-0.2, -0.6), (0.2, -0.6), (0.42, -0.06), (-0.42, -0.06)]
    foot = np.concatenate([oval(0, 0.54, 0.28, 0.12, start_deg=180, stop_deg=360), [(0.28, 0.6)],
                           [(-0.28, 0.6)]])  # fmt: skip
    return (
        _shape("base", rectangle(-0.045, -0.1, 0.045, 0.5), paint="steel"),
        _shape("base", foot, paint="steel"),
        _shape("shade", rounded(shade, radius=0.04), roundness=0.5),
        _shape("shade", oval(0, -0.06, 0.4, 0.06), paint="pollen"),
    )


def _mug() -> tuple[Shape, ...]:
    bottom = oval(-0.1, 0.36, 0.29, 0.1, start_deg=0, stop_deg=180)
    body = np.concatenate([[(-0.42, -0.36), (0.22, -0.36)], bottom])
    ear = oval(0.2, -0.01, 0.24, 0.22, start_deg=-95, stop_deg=95)
    return (
        _shape("handle", stroke(ear, width=0.11)),
        _shape("body", body, roundness=1.0),
        _shape("body", oval(-0.1, -0.36, 0.32, 0.1), paint="main_light"),
        _shape("body", oval(-0.1, -0.345, 0.26, 0.065), paint="dark", has_outline=False),
        _shine("body", rectangle(-0.33, -0.18, -0.28, 0.3)),
    )


def _pan() -> tuple[Shape, ...]:
    handle = rounded([(0.1, -0.07), (0.86, -0.09), (0.86, 0.09), (0.1, 0.07)], radius=0.06)
    return (
        _shape("handle", handle, paint="dark"),
        _shape("handle", oval(0.76, 0, 0.04, 0.04), paint="metal", has_outline=False),
        _shape("body", oval(-0.2, 0, 0.48, 0.48)),
        _shape("body", oval(-0.2, 0, 0.36, 0.36), paint="main_dark"),
        _shine("body", stroke(oval(-0.2, 0, 0.26, 0.26, start_deg=190, stop_deg=260), width=0.06)),
    )


def _scissors() -> tuple[Shape, ...]:
    blade = np.array([(-0.8, 0.0), (-0.66, -0.08), (0.16, -0.07), (0.2, 0.06)])
    arm = np.array([(0.1, -0.06), (0.42, -0.06), (0.42, 0.05), (0.1, 0.06)])
    ring = _ring(0.56, 0.0, 0.25, 0.19, width=0.1)

    def half(angle_deg: float, sign: float) -> tuple[Shape, ...]:
        def place(points: np.ndarray) -> np.ndarray:
            return turned(points * (1, sign), angle_deg=angle_deg, about=(0.02, 0.0))

        return (
            _shape("blades", place(blade), paint="metal"),
            _shape("blades", place(arm), paint="steel"),
            _shape("handles", *(place(contour) for contour in ring)),
        )

    pivot = _shape("blades", oval(0.04, 0, 0.05, 0.05), paint="steel")
    return (*half(24, 1), *half(-24, -1), pivot)


def _spoon() -> tuple[Shape, ...]:
    handle = [(-0.3, -0.045), (0.5, -0.075), (0.74, -0.1), (0.74, 0.1), (0.5, 0.075), (-0.3, 0.045)]
    return (
        _shape("handle", rounded(handle, radius=0.08)),
        _shape("bowl", oval(-0.48, 0, 0.3, 0.21), paint="metal"),
        _shape("bowl", oval(-0.49, 0, 0.22, 0.14), paint="steel", has_outline=False),
        _shine("bowl", oval(-0.56, -0.04, 0.08, 0.05), opacity=0.6),
    )


def _teapot() -> tuple[Shape, ...]:
    spout = smooth([(-0.26, 0.06), (-0.46, -0.06), (-0.56, -0.3), (-0.7, -0.26), (-0.6, 0.12),
                    (-0.28, 0.36)], rounds=1)  # fmt: skip
    ear = oval(0.36, 0.06, 0.26, 0.24, start_deg=-110, stop_deg=110)
    lid = np.concatenate([oval(0, -0.2, 0.24, 0.16, start_deg=180, stop_deg=360), [(0, -0.16)]])
    body = np.concatenate([oval(0, 0.1, 0.42, 0.34, start_deg=128, stop_deg=412)])
    return (
        _shape("spout", spout),
        _shape("handle", stroke(ear, width=0.1)),
        _shape("body", body, roundness=0.9),
        _shape("body", rectangle(-0.24, 0.34, 0.24, 0.42), paint="main_dark"),
        _shine("body", oval(-0.2, -0.02, 0.07, 0.1)),
        _shape("lid", oval(0, -0.38, 0.07, 0.07), paint="main_dark"),
        _shape("lid", lid, paint="main_light"),
    )


_BUILDERS = {
    "apple": _apple, "book": _book, "bottle": _bottle, "box": _box, "car": _car, "chair": _chair,
    "clock": _clock, "flower": _flower, "hammer": _hammer, "knife": _knife, "lamp": _lamp,
    "mug": _mug, "pan": _pan, "scissors": _scissors, "spoon": _spoon, "teapot": _teapot,
}  # fmt: skip


@cache
def shapes_of(category: str) -> tuple[Shape, ...]:
    """Return the painted outlines of a category, in painting order."""
    return _BUILDERS[category]()


@cache
def points_of(category: str) -> np.ndarray:
    """Return every contour point of a category as float64 (N, 2), contour after contour."""
    return np.concatenate([c for shape in shapes_of(category) for c in shape.contours])
