"""Closed curves in unit coordinates, x right and y down, as float64 (N, 2) polygons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Points = Sequence[tuple[float, float]] | np.ndarray


def oval(
    x: float, y: float, rx: float, ry: float, *, start_deg: float = 0, stop_deg: float = 360
) -> np.ndarray:
    """Return an ellipse, or the arc from `start_deg` to `stop_deg`, clockwise as seen."""
    count = max(6, int(abs(stop_deg - start_deg) / 12))
    closes = abs(stop_deg - start_deg) == 360
    t = np.radians(np.linspace(start_deg, stop_deg, count, endpoint=not closes))
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return the four corners of a box."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)


def smooth(points: Points, *, rounds: int = 2) -> np.ndarray:
    """Round the corners of a closed polygon by Chaikin's corner cutting."""
    curve = np.asarray(points, dtype=np.float64)
    for _ in range(rounds):
        following = np.roll(curve, -1, axis=0)
        cuts = (0.75 * curve + 0.25 * following, 0.25 * curve + 0.75 * following)
        curve = np.stack(cuts, axis=1).reshape(-1, 2)
    return curve


def rounded(points: Points, *, radius: float) -> np.ndarray:
    """Round the corners of a closed polygon within `radius` of each corner."""
    corners = np.asarray(points, dtype=np.float64)
    arcs = []
    for before, corner, after in zip(
        np.roll(corners, 1, axis=0), corners, np.roll(corners, -1, axis=0), strict=True
    ):
        start, stop = (
            corner + (end - corner) * min(0.5, radius / np.linalg.norm(end - corner))
            for end in (before, after)
        )
        for t in (0.0, 0.33, 0.67, 1.0):
            arcs.append((1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * stop)
    return np.array(arcs)


def stroke(points: Points, *, width: float) -> np.ndarray:
    """Return the outline of a pen of `width` drawn along an open line."""
    line = np.asarray(points, dtype=np.float64)
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * (width / 2)
    return np.concatenate([line + side, (line - side)[::-1]])


def petals(x: float, y: float, radius: float, *, count: int) -> np.ndarray:
    """Return the outline of a blossom with `count` petals."""
    t = np.linspace(0, 2 * np.pi, 12 * count, endpoint=False)
    r = radius * (0.62 + 0.38 * np.abs(np.cos(t * count / 2)) ** 0.7)
    return np.stack([x + r * np.cos(t), y + r * np.sin(t)], axis=1)


def turned(points: Points, *, angle_deg: float, about: tuple[float, float]) -> np.ndarray:
    """Rotate points clockwise as seen by `angle_deg` about a point."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return (np.asarray(points) - about) @ np.array([[c, s], [-s, c]]) + about
