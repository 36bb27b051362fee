"""How sure it is that one bundle is better than another: a paired bootstrap over the phrases.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    pair = [
        np.array([(one.iou_sum, one.intersection_pixels, one.union_pixels) for one in scores])
        for scores in (first, second)
    ]
    return dict(zip(("gIoU", "cIoU"), _intervals(pair, _overlaps, seed), strict=True))


def compare_words(
    first: Sequence[bool], second: Sequence[bool], *, seed: int = 0
) -> dict[str, Interval]:
    """Compare how often two bundles are right about the same questions.

    Args:
        first: Whether each answer is right.
        second: Likewise, in the same order.
        seed: Seeds the drawing.

    Returns:
        "accuracy" -> second minus first.

    Raises:
        UsageError: They are not of equally many questions, or of none.
    """
    (interval,) = _intervals([np.array(first), np.array(second)], _accuracy, seed)
    return {"accuracy": interval}


def _intervals(
    pair: Sequence[np.ndarray], figures: Callable[[np.ndarray], np.ndarray], seed: int
) -> list[Interval]:
    """Return the interval of each figure of a set of phrases, each phrase a row of a table."""
    phrases = len(pair[0])
    if phrases != len(pair[1]) or not phrases:
        raise UsageError(
            "two bundles are compared on the same phrases, at least one; got "
            f"{phrases} and {len(pair[1])}; ask both the same"
        )

    def difference(rows: np.ndarray) -> np.ndarray:
        first, second = (figures(table[rows]) for table in pair)
        return 100 * (second - first)

    rng = np.random.default_rng(seed)
    drawn = [difference(rng.integers(phrases, size=phrases)) for _ in range(DRAWS)]
    ends = np.quantile(drawn, ((1 - SHARE) / 2, (1 + SHARE) / 2), axis=0)
    return [
        Interval(difference=float(point), low=float(low), high=float(high))
        for point, low, high in zip(difference(np.arange(phrases)), *ends, strict=True)
    ]


def _overlaps(rows: np.ndarray) -> np.ndarray:
    """Return gIoU and cIoU of rows of an IoU and the pixels of intersection and union."""
    iou, shared, all_ = rows.sum(0)
    return np.array([iou / len(rows), shared / max(1, all_)])


def _accuracy(rows: np.ndarray) -> np.ndarray:
    return rows.mean(keepdims=True)
