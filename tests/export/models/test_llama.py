from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saymask.export.models.llama import LLAMA_SPECS, Llama, LlamaSpec, causal_mask

SPEC = LlamaSpec(
    width=48, layers=3, heads=6, key_heads=2, mlp_width=40, vocabulary=30, rope_theta=10000.0,
    norm_epsilon=1e-5, max_positions=64, is_tied=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Llama:
    torch.manual_seed(0)
    return Llama(SPEC).eval()


@torch.no_grad()
def _logits(network: Llama, ids: torch.Tensor) -> torch.Tensor:
    embeddings = network.model.embed_tokens(ids)
    positions = torch.arange(ids.shape[1])[None]
    return network(embeddings, positions, causal_mask(ids.shape[1]))


@pytest.mark.parametrize(
    "changes",
    [{}, {"is_tied": True}, {"key_heads": 6, "rope_theta": 500000.0, "norm_epsilon": 1e-3}],
)
def test_the_same_weights_write_the_same_words_as_the_reference(changes):
    transformers = pytest.importorskip("transformers", reason="needs transformers 4.57")
    spec = replace(SPEC, **changes)
    torch.manual_seed(1)
    ours = Llama(spec).eval()
    config = transformers.LlamaConfig(
        hidden_size=spec.width, num_hidden_layers=spec.layers, num_attention_heads=spec.heads,
        num_key_value_heads=spec.key_heads, intermediate_size=spec.mlp_width,
        vocab_size=spec.vocabulary, rms_norm_eps=spec.norm_epsilon,
        max_position_embeddings=spec.max_positions, tie_word_embeddings=spec.is_tied,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        attn_implementation="eager",
    )  # fmt: skip
    reference = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in reference.state_dict().items():
            weight += 0.1 * torch.randn_like(weight) * ("norm" in name)
    ours.load_state_dict(reference.state_dict())
    ids = torch.randint(spec.vocabulary, (2, 20))
    with torch.no_grad():
        wanted = reference(ids).logits
    assert wanted.abs().max() > 0.05
    torch.testing.assert_close(_logits(ours, ids), wanted, atol=1e-5, rtol=0)


def test_no_word_depends_on_later_ones(network):
    ids = torch.randint(SPEC.vocabulary, (1, 12))
    other = ids.clone()
    other[0, 7] = (ids[0, 7] + 1) % SPEC.vocabulary
    change = (_logits(network, ids) - _logits(network, other)).abs().amax(-1)[0]
    assert change[:7].max() == 0
    assert change[7:].min() > 0


def test_only_distances_between_places_count(network):
    embeddings = torch.randn(1, 9, SPEC.width)
    places, mask = torch.arange(9)[None], causal_mask(9)
    with torch.no_grad():
        here, there = (network(embeddings, places + start, mask) for start in (0, 31))
        apart = network(embeddings, 2 * places, mask)
    torch.testing.assert_close(here, there, atol=1e-5, rtol=0)
    assert (here - apart).abs().max() > 1e-3


def test_tied_words_are_one_tensor():
    tied = Llama(replace(SPEC, is_tied=True))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert "lm_head.weight" in tied.state_dict()


def test_the_official_size_has_eight_billion_weights():
    with torch.device("meta"):
        network = Llama(LLAMA_SPECS["llama-3-8b"])
    assert sum(weight.numel() for weight in network.parameters()) == 8_030_261_248
