import pytest
import torch

from saymask.export.models.projector import projector


@pytest.mark.parametrize(("width", "parameters"), [(768, 787_456), (1024, 1_312_000)])
def test_official_sizes(width, parameters):
    with torch.device("meta"):
        network = projector(width, 256)
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert list(network.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_it_is_two_linear_maps_around_a_relu():
    torch.manual_seed(0)
    network, states = projector(6, 4), torch.randn(5, 1, 6)
    first, second = network[0], network[2]
    hidden = (states @ first.weight.T + first.bias).clamp(min=0)
    assert (hidden == 0).any()
    torch.testing.assert_close(network(states), hidden @ second.weight.T + second.bias)
