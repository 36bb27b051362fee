"""How sure it is that one bundle is better than another: a paired bootstrap over the phrases.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration.score import Score
from ..runtime.errors import UsageError

DRAWS = 2000
"""Sets of phrases that are drawn, with replacement, as many phrases as there are."""
SHARE = 0.95
"""Share of them whose difference lies in the interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A difference in points, a hundredth of the metric each; positive where the second is ahead.

    It is sure where the interval leaves zero out.
    """

    difference: float
    """Of the phrases as they are."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""

    @property
    def is_sure(self) -> bool:
        """Whether all of the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def compare(
    first: Sequence[Score], second: Sequence[Score], *, seed: int = 0
) -> dict[str, Interval]:
    """Compare two bundles on the same phrases.

    Args:
        first: A score for each phrase.
        second: Likewise, in the same order.
        seed: Seeds the drawing.

    Returns:
        Metric, "gIoU" or "cIoU", -> second minus first.

    Raises:
        UsageError: They are not of equally many phrases, or of none.
    """
    if len(first) != len(second) or not first:
        raise UsageError(
            "two bundles are compared on the same phrases, at least one; got "
            f"{len(first)} and {len(second)}; ask both the same"
        )
    pair = [
        np.array([(one.iou_sum, one.intersection_pixels, one.union_pixels) for one in scores])
        for scores in (first, second)
    ]
    rng = np.random.default_rng(seed)
    as_they_are = _differences(pair, np.arange(len(first)))
    drawn = [_differences(pair, rng.integers(len(first), size=len(first))) for _ in range(DRAWS)]
    edges = (1 - SHARE) / 2, (1 + SHARE) / 2
    ends = np.quantile(drawn, edges, axis=0)
    return {
        name: Interval(difference=float(point), low=float(low), high=float(high))
        for name, point, low, high in zip(("gIoU", "cIoU"), as_they_are, *ends, strict=True)
    }


def _differences(pair: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return the differences in points of gIoU and cIoU over some phrases."""
    sums = [columns[rows].sum(0) for columns in pair]
    first, second = (np.array([iou / len(rows), part / max(1, all_)]) for iou, part, all_ in sums)
    return 100 * (second - first)
