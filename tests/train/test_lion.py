import pytest
import torch

from saymask.train.lion import Lion


def test_steps_are_those_of_the_paper():
    """Algorithm 2, number by number, for two steps."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    lion = Lion([weight], lr=0.1, betas=(0.9, 0.5), weight_decay=0.2)
    by_hand, mean = weight.detach().clone(), torch.zeros(3)
    for gradient in (torch.tensor([1.0, -3.0, 0.0]), torch.tensor([-0.05, 4.0, 1.0])):
        weight.grad = gradient
        lion.step()
        direction = torch.sign(0.9 * mean + 0.1 * gradient)
        by_hand -= 0.1 * (direction + 0.2 * by_hand)
        mean = 0.5 * mean + 0.5 * gradient
        torch.testing.assert_close(weight.detach(), by_hand)
    assert weight[0] < 1 - 0.1 * 0.2 - 0.1, "the mean outweighs a small gradient against it"


def test_a_weight_without_a_gradient_stays():
    weight = torch.nn.Parameter(torch.ones(2))
    Lion([weight], lr=0.1, weight_decay=0.5).step()
    assert weight.tolist() == [1, 1]


def test_a_restored_optimizer_goes_on():
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    first, second = (Lion([weight], lr=0.1) for weight in weights)
    weights[0].grad = torch.tensor([1.0, -1.0])
    first.step()
    second.load_state_dict(first.state_dict())
    weights[1].data.copy_(weights[0].data)
    for weight, lion in zip(weights, (first, second), strict=True):
        weight.grad = torch.tensor([-0.01, 0.01])
        lion.step()
    assert torch.equal(*weights)
    assert weights[0].tolist() == pytest.approx([0.8, 1.2])
