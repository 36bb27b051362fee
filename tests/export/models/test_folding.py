import pytest
import torch
from torch import Tensor, nn

from saymask.export.models.folding import Foldable, fold
from saymask.export.models.sam import PromptEncoder, SamSpec

SPEC = SamSpec(width=16, heads=2, mlp_width=8, grid_hw=(3, 4), frame_hw=(12, 16), eps=1e-5)


class Doubled(Foldable):
    """Adds twice its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def worked_out(self) -> Tensor:
        return 2 * self.weight

    def forward(self, x: Tensor) -> Tensor:
        return x + self.constant()


@pytest.fixture
def network() -> nn.Sequential:
    return nn.Sequential(Doubled(), nn.Identity(), Doubled())


def test_until_it_is_folded_a_constant_follows_its_weights(network):
    network[0].weight.data.fill_(5)
    assert network(torch.zeros(2)).tolist() == [12, 12]


def test_a_folded_constant_stays_and_is_in_no_state_dict(network):
    names = set(network.state_dict())
    fold(network)
    network[0].weight.data.fill_(5)
    assert network(torch.zeros(2)).tolist() == [4, 4]
    assert set(network.state_dict()) == names


def test_a_folded_graph_holds_the_constant_alone(network):
    fold(network)
    program = torch.export.export(network, (torch.zeros(2),))
    operations = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert operations == ["aten.add.Tensor"] * 2


def test_parts_on_no_device_start_unfolded():
    with torch.device("meta"):
        prompts = PromptEncoder(SPEC)
    assert prompts.folded is None
    assert prompts.dense_positions().shape == (1, 16, 3, 4)
