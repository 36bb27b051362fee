from dataclasses import replace

import pytest
import torch
from torch import nn

from saymask.export.models.beit3 import BEIT3_SPECS, FIRST_POSITION, BEiT3

SMALL = replace(
    BEIT3_SPECS["mini"],
    width=24,
    depth=3,
    heads=3,
    ffn_width=40,
    image_hw=(16, 24),
    patch=8,
    vocabulary=50,
)
WORDS = torch.tensor([[0, 7, 9, 4, 2, 1, 1], [0, 11, 5, 6, 21, 7, 2]])
"""Two phrases; the first has two words of padding."""


@pytest.fixture(scope="module")
def network() -> BEiT3:
    torch.manual_seed(0)
    network = BEiT3(SMALL).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.vision_embed.cls_token.normal_()
    return network


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, *SMALL.image_hw, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("size", "parameters", "tensors"), [("base", 220_987_392, 491), ("large", 672_702_464, 971)]
)
def test_official_sizes(size, parameters, tensors):
    with torch.device("meta"):
        network = BEiT3(BEIT3_SPECS[size])
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors


def test_official_names_and_shapes():
    with torch.device("meta"):
        state = BEiT3(BEIT3_SPECS["base"]).state_dict()
    layer = "encoder.layers.11"
    for name, shape in {
        "text_embed.weight": (64010, 768),
        "vision_embed.mask_token": (1, 1, 768),
        "vision_embed.cls_token": (1, 1, 768),
        "vision_embed.proj.weight": (768, 3, 16, 16),
        "encoder.embed_positions.A.weight": (199, 768),
        "encoder.embed_positions.B.weight": (1024, 768),
        f"{layer}.self_attn.q_proj.A.weight": (768, 768),
        f"{layer}.self_attn.out_proj.B.bias": (768,),
        f"{layer}.self_attn.inner_attn_ln.A.weight": (768,),
        f"{layer}.self_attn_layer_norm.B.bias": (768,),
        f"{layer}.ffn.A.fc1.weight": (3072, 768),
        f"{layer}.ffn.B.fc2.weight": (768, 3072),
        f"{layer}.ffn.B.ffn_layernorm.weight": (3072,),
        f"{layer}.final_layer_norm.A.weight": (768,),
        "encoder.layer_norm.B.weight": (768,),
    }.items():
        assert state[name].shape == shape, name


def test_the_class_token_is_the_first_row_of_all_states(network, image):
    states = network(image, WORDS)
    assert states.shape == (2, SMALL.image_tokens + WORDS.shape[1], SMALL.width)
    torch.testing.assert_close(network.class_token(image, WORDS), states[:, :1])


def test_padding_changes_nothing(network, image):
    padded = network(image, WORDS[:1])
    bare = network(image, WORDS[:1, :5])
    torch.testing.assert_close(padded[:, :-2], bare)
    more = torch.nn.functional.pad(WORDS[:1], (0, 20), value=SMALL.pad_id)
    torch.testing.assert_close(network.class_token(image, more), bare[:, :1])


def test_the_words_do_change_the_class_token(network, image):
    first, second = network.class_token(image, WORDS)
    assert (first - second).abs().max() > 1e-3


def test_one_image_is_shared_by_all_phrases(network, image):
    apart = [network.class_token(image, row[None]) for row in WORDS]
    torch.testing.assert_close(network.class_token(image, WORDS), torch.cat(apart))
    copies = image.expand(2, -1, -1, -1)
    torch.testing.assert_close(network(image, WORDS), network(copies, WORDS))


def test_an_image_of_its_own_for_each_phrase(network, image):
    images = torch.cat([image, -image])
    apart = [network(images[row : row + 1], WORDS[row : row + 1]) for row in range(2)]
    torch.testing.assert_close(network(images, WORDS), torch.cat(apart))


def test_positions_begin_at_the_third_row_for_both_experts(image):
    torch.manual_seed(0)
    network = BEiT3(SMALL)
    states = network(image, WORDS)
    (states[:, : SMALL.image_tokens] * torch.randn(SMALL.width)).sum().backward()
    for expert, count in (("A", SMALL.image_tokens), ("B", WORDS.shape[1])):
        table = network.encoder.embed_positions.get_submodule(expert).weight
        used = table.grad.abs().sum(1).nonzero().flatten().tolist()
        assert used == list(range(FIRST_POSITION, FIRST_POSITION + count)), expert
    assert FIRST_POSITION == 2


def test_each_kind_of_token_has_its_expert(network, image):
    changed = BEiT3(SMALL).eval().requires_grad_(False)
    changed.load_state_dict(network.state_dict())
    changed.encoder.layer_norm.B.bias.add_(1)
    difference = changed(image, WORDS) - network(image, WORDS)
    torch.testing.assert_close(
        difference[:, : SMALL.image_tokens], torch.zeros(()).expand(2, 7, 24)
    )
    torch.testing.assert_close(difference[:, SMALL.image_tokens :], torch.ones(()).expand(2, 7, 24))


def test_what_attention_and_activation_give_is_normalized():
    torch.manual_seed(0)
    network = BEiT3(SMALL).eval()
    seen = {}

    def see(name):
        return lambda module, inputs: seen.__setitem__(name, inputs[0])

    for name, module in network.named_modules():
        if name.endswith(("out_proj.A", "out_proj.B", "fc2")):
            module.register_forward_pre_hook(see(name))
    with torch.no_grad():
        network(torch.randn(2, 3, *SMALL.image_hw), WORDS.clamp(min=4))
    assert len(seen) == 4 * SMALL.depth
    for name, values in seen.items():
        assert values.mean(-1).abs().max() < 1e-4, name
        assert (values.std(-1, correction=0) - 1).abs().max() < 0.1, name


def test_the_activation_is_the_exact_gelu(network):
    ffn = network.encoder.layers[0].ffn.A
    tokens = torch.randn(1, 4, SMALL.width)
    hidden = ffn.fc1(tokens)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(ffn(tokens), ffn.fc2(ffn.ffn_layernorm(hidden)), atol=1e-6, rtol=0)


def test_every_norm_has_the_references_epsilon(network):
    norms = [each for each in network.modules() if isinstance(each, nn.LayerNorm)]
    assert len(norms) == 2 * (4 * SMALL.depth + 1)
    assert {norm.eps for norm in norms} == {1e-5}
