import json

import pytest
import torch

from saymask.export.language.adapter import open_adapter
from saymask.export.models.llava_llama import LLAVA_SPECS, LlavaLlama
from saymask.train.lora import LoraRecipe, adapters, add_lora, save_adapter

RECIPE = LoraRecipe(rank=4, alpha=8, dropout=0.5)


def answer(network: LlavaLlama) -> torch.Tensor:
    """What a network makes of an image, with its language model's guess behind it."""
    torch.manual_seed(3)
    seen = network.vision(torch.randn(1, 3, *network.spec.vision.vision_tower.image_hw))
    mask = torch.ones(seen.shape[1], seen.shape[1], dtype=torch.bool).tril()
    return network.language(seen, torch.arange(seen.shape[1])[None], mask)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A network before, the same with adapters that have learned, and their folder."""
    torch.manual_seed(0)
    network = LlavaLlama(LLAVA_SPECS["mini"]).eval()
    before = {name: value.clone() for name, value in network.tensors().items()}
    plain = answer(network)
    add_lora(network, RECIPE)
    torch.testing.assert_close(answer(network.eval()), plain, msg="nothing is learned yet")
    with torch.no_grad():
        for parameter in adapters(network):
            parameter.add_(0.02 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("lora") / "adapter"
    save_adapter(network, RECIPE, folder)
    return before, network, folder


def test_only_the_adapters_learn(tuned):
    _, network, _ = tuned
    learning = {name for name, each in network.named_parameters() if each.requires_grad}
    assert {name for name in learning if ".lora_" not in name} == set()
    layers = LLAVA_SPECS["mini"].language.layers
    assert len(learning) == 2 * (7 * layers + 2)
    assert not any("vision_tower" in name for name in learning)


def test_the_export_merges_what_is_saved(tuned):
    before, network, folder = tuned
    adapter = open_adapter(folder)
    adapter.check({name: tuple(value.shape) for name, value in before.items()})
    assert "model.mm_projector.0.weight" in adapter.deltas
    assert "model.layers.0.self_attn.q_proj.weight" in adapter.deltas
    merged = LlavaLlama(LLAVA_SPECS["mini"]).eval()
    merged.load_tensors({name: adapter.merged(name, value) for name, value in before.items()})
    plain = LlavaLlama(LLAVA_SPECS["mini"]).eval()
    plain.load_tensors(before)
    with torch.no_grad():
        truth = answer(network)
        torch.testing.assert_close(answer(merged), truth, rtol=1e-3, atol=1e-3)
        assert (answer(plain) - truth).abs().max() > 0.1


def test_the_folder_is_pefts(tuned):
    _, _, folder = tuned
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
