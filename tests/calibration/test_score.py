"""Figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration.score import Score, merge, score_mask, score_tasks
from saymask.runtime.errors import UsageError


def _row(*inside: int) -> np.ndarray:
    mask_hw = np.zeros((1, 10), np.bool_)
    mask_hw[0, list(inside)] = True
    return mask_hw


NOTHING = _row()
FOUND = (_row(0, 1, 2, 3), _row(1, 2, 3, 4))  # 3 of 5
EXACT = (_row(5, 6), _row(5, 6))  # 2 of 2
MISSED = (NOTHING, _row(0, 1, 2))  # 0 of 3
INVENTED = (_row(7), NOTHING)  # 0 of 1
KEPT = (NOTHING, NOTHING)  # IoU 1 without pixels


def test_one_sample():
    score = score_mask(*FOUND)
    assert score.giou == score.ciou == pytest.approx(0.6)
    assert score.precision == (1.0, 0.0, 0.0)
    assert score.t_acc == 1.0
    assert np.isnan(score.n_acc)


def test_many_samples():
    score = sum((score_mask(*pair) for pair in (FOUND, EXACT, MISSED, INVENTED, KEPT)), Score())
    assert score.samples == 5
    assert score.giou == pytest.approx((0.6 + 1 + 0 + 0 + 1) / 5)
    assert score.ciou == pytest.approx(5 / 11)
    assert score.precision == pytest.approx((2 / 3, 1 / 3, 1 / 3)), "of the targeted samples"
    assert score.n_acc == pytest.approx(1 / 2)
    assert score.t_acc == pytest.approx(2 / 3)


def test_a_threshold_is_reached_by_equality():
    half = score_mask(_row(0, 1), _row(1))
    assert half.giou == 0.5
    assert half.precision[0] == 1.0


def test_empty_masks_count_for_giou_alone():
    score = score_mask(*KEPT)
    assert score.giou == 1.0
    assert score.union_pixels == 0
    assert np.isnan(score.ciou)
    assert all(np.isnan(score.precision))


def test_nothing_scored_is_not_zero():
    assert np.isnan(Score().giou)


def test_tasks_merge_as_if_scored_together():
    samples = [("single", *FOUND), ("none", *KEPT), ("single", *MISSED), ("none", *INVENTED)]
    whole = score_tasks(samples)
    assert whole["single"] == score_mask(*FOUND) + score_mask(*MISSED)
    assert merge(score_tasks(samples[:1]), score_tasks(samples[1:])) == whole


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        (FOUND[0].astype(np.uint8), FOUND[1]),
        (FOUND[0], FOUND[1][:, :5]),
        (FOUND[0][0], FOUND[1][0]),
    ],
)
def test_only_boolean_planes_of_one_size(prediction, truth):
    with pytest.raises(UsageError, match="bool .H, W. of one size; got"):
        score_mask(prediction, truth)
