import pytest
import torch

from saymask.export.models.projector import language_projector, projector


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


def test_llavas_official_size():
    with torch.device("meta"):
        network = language_projector(1024, 4096)
    assert sum(each.numel() for each in network.parameters()) == 20_979_712
    assert list(network.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_llavas_is_two_linear_maps_around_a_gelu():
    torch.manual_seed(0)
    network, tokens = language_projector(6, 4), torch.randn(2, 5, 6)
    first, second = network[0], network[2]
    hidden = tokens @ first.weight.T + first.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    torch.testing.assert_close(network(tokens), hidden @ second.weight.T + second.bias)
