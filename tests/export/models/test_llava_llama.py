from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saymask.export.models.llava_llama import LLAVA_SPECS, LlavaLlama


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return LlavaLlama(LLAVA_SPECS["mini"]).tensors()


def test_names_are_those_of_a_released_checkpoint(tensors):
    tower = "model.vision_tower.vision_tower.vision_model"
    assert tensors[f"{tower}.embeddings.patch_embedding.weight"].shape == (256, 3, 12, 12)
    assert tensors[f"{tower}.encoder.layers.4.self_attn.q_proj.weight"].shape == (256, 256)
    assert tensors["model.mm_projector.2.weight"].shape == (256, 256)
    assert tensors["model.layers.3.self_attn.k_proj.weight"].shape == (128, 256)
    assert tensors["lm_head.weight"].shape == tensors["model.embed_tokens.weight"].shape
    assert all(name.startswith(("model.", "lm_head.")) for name in tensors)


def test_weights_come_back(tensors):
    other = LlavaLlama(LLAVA_SPECS["mini"])
    other.load_tensors(tensors)
    back = other.tensors()
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], each) for name, each in tensors.items())


def test_a_missing_or_foreign_weight_is_refused(tensors):
    other = LlavaLlama(LLAVA_SPECS["mini"])
    lacking = {name: each for name, each in tensors.items() if name != "model.norm.weight"}
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight"):
        other.load_tensors(lacking)
    with pytest.raises(RuntimeError, match=r"model\.image_newline"):
        other.load_tensors(tensors | {"model.image_newline": torch.zeros(256)})


def test_the_newline_is_there_where_tiles_are():
    spec = LLAVA_SPECS["mini"]
    tiled = replace(spec, vision=replace(spec.vision, has_newline=True))
    assert LlavaLlama(tiled).tensors()["model.image_newline"].shape == (256,)
