import math

import pytest
import torch

from saymask.train.losses import (
    IGNORED,
    mask_bce,
    mask_dice,
    mask_iou,
    mask_losses,
    mean_cross_entropy,
)

UNSURE = torch.zeros(1, 2, 2)
"""Logits of probability 0.5."""
HALF = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
NOTHING = torch.zeros(1, 2, 2)


def test_bce_is_the_mean_over_pixels_and_masks():
    assert mask_bce(UNSURE, HALF).item() == pytest.approx(math.log(2))
    logits = torch.tensor([[[2.0, -1.0]], [[0.0, 0.0]]])
    truth = torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]])
    pixels = [math.log1p(math.exp(-2)), math.log1p(math.exp(1)), math.log(2), math.log(2)]
    assert mask_bce(logits, truth).item() == pytest.approx(sum(pixels) / 4)


def test_dice_divides_by_a_thousand_before_it_adds_its_epsilon():
    shared, total = 2 * 0.5 * 2 / 1000, (4 * 0.5 + 2) / 1000
    by_hand = 1 - (shared + 1e-6) / (total + 1e-6)
    assert mask_dice(UNSURE, HALF).item() == pytest.approx(by_hand, abs=1e-7)
    assert abs(by_hand - 0.5) > 1e-4, "without the scale the epsilon would not show"


def test_dice_of_nothing_found_where_nothing_is_has_no_loss():
    assert mask_dice(UNSURE - 50, NOTHING).item() == pytest.approx(0, abs=1e-6)
    wrong = 1 - 1e-6 / (4 / 1000 + 1e-6)
    assert mask_dice(UNSURE + 50, NOTHING).item() == pytest.approx(wrong, abs=1e-6)


def test_dice_averages_masks_not_pixels():
    logits = torch.cat([UNSURE, UNSURE + 50])
    truth = torch.cat([HALF, NOTHING])
    alone = [mask_dice(logits[i : i + 1], truth[i : i + 1]).item() for i in range(2)]
    assert mask_dice(logits, truth).item() == pytest.approx(sum(alone) / 2)


def test_iou_counts_pixels_and_two_empty_masks_agree():
    logits = torch.tensor([[[3.0, -1.0, 2.0]], [[-1.0, -1.0, -1.0]], [[-1.0, -1.0, 1.0]]])
    truth = torch.tensor([[[1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]])
    for real in (truth, truth.bool()):
        assert mask_iou(logits, real).tolist() == pytest.approx([2 / 3, 1, 0])


def test_cross_entropy_averages_the_labels_that_are_asked_for():
    logits = torch.tensor([[0.0, 0.0], [9.0, -9.0], [math.log(3), 0.0]], requires_grad=True)
    labels = torch.tensor([0, IGNORED, 1])
    by_hand = (math.log(2) + math.log(4)) / 2
    assert mean_cross_entropy(logits, labels).item() == pytest.approx(by_hand)


def test_cross_entropy_of_no_label_is_zero_and_teaches_nothing():
    logits = torch.randn(4, 3, requires_grad=True)
    loss = mean_cross_entropy(logits, torch.full((4,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(4, 3))


def test_each_masks_loss_averages_to_the_batchs():
    rng = torch.Generator().manual_seed(2)
    logits, truth = torch.randn(5, 6, 7, generator=rng), torch.rand(5, 6, 7, generator=rng).round()
    each = mask_losses(logits, truth)
    assert each.shape == (5,)
    torch.testing.assert_close(each.mean(), mask_bce(logits, truth) + mask_dice(logits, truth))
    alone = mask_losses(logits[3:4], truth[3:4])
    torch.testing.assert_close(each[3:4], alone)
