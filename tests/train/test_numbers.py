from __future__ import annotations

import pytest
import torch

from saymask.train.numbers import NUMBERS, number_waves, soft_cross_entropy


def test_near_numbers_are_near_and_far_ones_differ():
    waves = number_waves(64)
    assert waves.shape == (NUMBERS, 64)
    alike = waves @ waves.T / 32
    assert alike.diagonal().min() == pytest.approx(1, abs=1e-5)
    for number in (0, 400, 999):
        order = alike[number].argsort(descending=True)
        assert (order[:3] - number).abs().max() <= 2
        far = (torch.arange(NUMBERS) - number).abs() > 30
        assert alike[number][far].max() < 0.85


def test_a_bell_around_the_truth_costs_nothing_and_distance_costs():
    truth = torch.tensor([500.0, 3.0])
    distance = torch.arange(NUMBERS) - truth[:, None]
    perfect = -0.5 * (distance / 4.0) ** 2
    assert soft_cross_entropy(perfect, truth).abs().max() < 1e-4
    off = [soft_cross_entropy(perfect.roll(shift, 1), truth)[0] for shift in (1, 5, 20)]
    assert 0 < off[0] < off[1] < off[2]


def test_classes_may_stand_for_every_tenth_number():
    logits = torch.zeros(1, 100, requires_grad=True)
    soft_cross_entropy(logits, torch.tensor([347.0]), step=10).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].argsort()[:2].tolist() == [35, 34], "340 and 350 are wanted most"
