"""Where in a box points are asked about while a model learns, and what lies there.

Source: SAM4MLLM (arXiv 2409.10542), section 4.1, and its released notebooks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RANDOM_POINTS = 10
"""The paper's number of points in a box."""
PATTERNS, PATTERN_POINTS, RADIUS = 100, 100, 0.1
"""The notebooks keep so many patterns of so many points, at most, that lie so far apart."""
TRIES = 1000
"""Places that are tried for a pattern; more than this adds hardly a point."""
MEAN_POINTS, POINTS_SPREAD, MOST_POINTS = 10, 4, 20
"""How many points the notebooks ask about in a box: normal, cut to an integer, from 1 on."""

DrawPlaces = Callable[[np.random.Generator], np.ndarray]
"""Draws places in a box, float64 (n, 2) in [0, 1], x before y."""


def random_places(rng: np.random.Generator) -> np.ndarray:
    """Draw ten places anywhere, as the paper does."""
    return rng.random((RANDOM_POINTS, 2))


def poisson_places() -> DrawPlaces:
    """Make the notebooks' drawing: some points of one of a hundred Poisson-disk patterns."""
    patterns = [poisson_disk(np.random.default_rng(seed)) for seed in range(PATTERNS)]

    def draw(rng: np.random.Generator) -> np.ndarray:
        count = int(np.clip(int(rng.normal(MEAN_POINTS, POINTS_SPREAD)), 1, MOST_POINTS))
        return rng.choice(patterns[rng.integers(PATTERNS)], count, replace=False)

    return draw


def poisson_disk(rng: np.random.Generator) -> np.ndarray:
    """Draw up to `PATTERN_POINTS` places that lie at least `RADIUS` apart."""
    left, kept = rng.random((TRIES, 2)), []
    while len(left) and len(kept) < PATTERN_POINTS:
        kept.append(left[0])
        left = left[np.hypot(*(left - left[0]).T) >= RADIUS]
    return np.array(kept)


PLACES: dict[str, Callable[[], DrawPlaces]] = {
    "poisson": poisson_places,
    "random": lambda: random_places,
}
"""Way of drawing points, the released code's and the paper's -> makes it."""


def is_inside(mask_hw: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return whether points float (n, 2) in pixels lie in a bool (H, W) mask, as bool (n,)."""
    x, y = np.floor(xy).astype(int).T
    height, width = mask_hw.shape
    is_in_view = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return is_in_view & mask_hw[y.clip(0, height - 1), x.clip(0, width - 1)]
