from __future__ import annotations

from typing import Any

import pytest
import torch

from saymask.export.language.layout import layout_from_config
from saymask.export.language.names import language_name, language_tensors, targets
from saymask.runtime.errors import CheckpointError

from .checkpoints import llama_config, random_weights

Q = "model.layers.1.self_attn.q_proj.weight"


def _find(weights: dict[str, Any], extra: tuple[Any, ...] = (), **changes: Any) -> dict[str, Any]:
    layout = layout_from_config(llama_config(**changes), "config.json")
    return language_tensors([*weights.items(), *extra], layout, "folder")


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        (Q, Q),
        (f"language_model.{Q}", Q),
        ("model.language_model.layers.1.self_attn.q_proj.weight", Q),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("model.vision_tower.vision_tower.vision_model.embeddings.class_embedding", None),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", None),
        ("model.mm_projector.0.weight", None),
        ("multi_modal_projector.linear_1.bias", None),
        ("model.image_newline", None),
        ("visual_model.mask_decoder.iou_token.weight", None),
    ],
)
def test_names_of_multimodal_models(stored: str, name: str | None) -> None:
    assert language_name(stored) == name


def test_other_parts_are_passed_over() -> None:
    weights = random_weights(llama_config())
    stored = {f"language_model.{name}": tensor for name, tensor in weights.items()}
    beside = {"vision_tower.x": torch.ones(1), "multi_modal_projector.linear_1.bias": torch.ones(1)}
    assert _find(stored | beside).keys() == weights.keys()


def test_old_buffers_are_passed_over() -> None:
    weights = random_weights(llama_config())
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    assert _find(weights | buffer).keys() == weights.keys()


def test_misfits_are_listed() -> None:
    weights = random_weights(llama_config())
    twice = (Q, weights[Q])
    weights["model.norm.weight"] = torch.ones(3)
    weights["model.extra"] = torch.ones(1)
    del weights["lm_head.weight"]
    with pytest.raises(CheckpointError) as error:
        _find(weights, (twice,))
    for words in (
        "4 do not", "lm_head.weight is missing", "model.extra is unknown", f"{Q} comes twice",
        "model.norm.weight is (3,), not (64,)",
    ):  # fmt: skip
        assert words in str(error.value)


def test_biases_of_qwen_are_wanted() -> None:
    with pytest.raises(CheckpointError, match=r"q_proj.bias is missing"):
        _find(random_weights(llama_config()), model_type="qwen2")


def test_a_tied_matrix_may_be_stored_again_if_it_is_the_same() -> None:
    config = llama_config(tie_word_embeddings=True)
    weights = random_weights(config)
    copied = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    assert _find(copied, tie_word_embeddings=True).keys() == weights.keys()
    copied["lm_head.weight"][0] += 1
    with pytest.raises(CheckpointError, match=r"lm_head.weight is unknown"):
        _find(copied, tie_word_embeddings=True)


def test_only_llama_moves_rows() -> None:
    for kind, heads in (("llama", (4, 2, 0)), ("qwen2", (0, 0, 0))):
        found = targets(layout_from_config(llama_config(model_type=kind), "config.json"))
        names = [f"model.layers.0.self_attn.{letter}_proj.weight" for letter in "qkv"]
        assert tuple(found[name].heads for name in names) == heads
