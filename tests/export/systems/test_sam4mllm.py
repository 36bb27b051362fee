import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saymask.export.checkpoint import Checkpoint, CheckpointConfig, open_checkpoint
from saymask.export.models.sam4mllm import SAM4MLLM_SPECS, Sam4mllm
from saymask.export.systems.sam4mllm import (
    ADAPTER_FOLDER,
    CLIP_MEAN_RGB,
    CLIP_STD_RGB,
    DECODER_FILE,
    PROTOCOLS,
    SAM_FILES,
    config_from_released,
    language_of,
    load,
    load_decoder,
    settings_of,
    stages,
    tiling,
    tokenizer_of,
    views,
    views_of,
)
from saymask.runtime.errors import CheckpointError, UnknownNameError
from saymask.runtime.systems.sam4mllm_protocol import (
    MINIATURE,
    PRESETS,
    protocol_from_settings,
    tiling_from_settings,
)
from saymask.runtime.tiling import token_order

MINI = SAM4MLLM_SPECS["mini"]
OFFICIAL = SAM4MLLM_SPECS["efficientvit-xl1-llava-next-8b"]
RELEASED = {"model_type": "llava_llama", "hidden_size": 4096, "num_hidden_layers": 32}
LANGUAGE = {
    "model.embed_tokens.weight": torch.zeros(5, 4),
    "model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4),
    "model.norm.weight": torch.zeros(4),
    "lm_head.weight": torch.zeros(5, 4),
}


@pytest.fixture(scope="module")
def network() -> Sam4mllm:
    torch.manual_seed(0)
    return Sam4mllm(MINI).eval().requires_grad_(False)


def _checkpoint(folder: Path, tensors: dict[str, torch.Tensor], variant="mini") -> Checkpoint:
    save_file(
        {name: each.contiguous() for name, each in tensors.items()}, folder / "model.safetensors"
    )
    config = CheckpointConfig(
        system="sam4mllm", variant=variant, max_tokens=64, license="Apache-2.0"
    )
    return Checkpoint(
        folder=folder,
        name=folder.name,
        config=config,
        weight_files=(folder / "model.safetensors",),
        vocabulary=folder / "tokenizer.json",
    )


def _assert_same(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    state = found.state_dict()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(state[name], value, msg=name)


def test_views_are_llavas_and_efficientvit_sams():
    sam, vision = views(OFFICIAL)
    assert (sam.size_hw, sam.fit, sam.interpolation) == ((1024, 1024), "pad", "bilinear")
    assert (vision.size_hw, vision.fit, vision.interpolation) == ((336, 336), "stretch", "bicubic")
    for view in (sam, vision):
        assert view.is_antialiased
        assert view.rounds_to_uint8
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    assert pytest.approx([255 * each for each in mean]) == CLIP_MEAN_RGB
    assert pytest.approx([255 * each for each in std]) == CLIP_STD_RGB


def test_the_miniatures_views_are_smooth_and_its_frame_is_not_cut():
    sam, vision = views(MINI)
    assert (sam.size_hw, vision.size_hw) == ((120, 160), (96, 120))
    assert not sam.rounds_to_uint8
    assert not vision.rounds_to_uint8
    assert len(token_order((480, 640), tiling(MINI))) == 80


def test_an_official_frame_is_cut():
    assert len(token_order((672, 672), tiling(OFFICIAL))) == 2928


def test_every_variant_has_a_protocol():
    assert set(PROTOCOLS) == set(SAM4MLLM_SPECS)


@torch.no_grad()
def test_the_graphs_are_the_network(network):
    torch.manual_seed(1)
    image, vision, mask = stages(network)
    assert [each.name for each in (image, vision, mask)] == ["image", "vision", "mask"]
    assert list(mask.examples) == [*image.outputs, "points_xy", "labels"]
    seen = torch.randn_like(image.examples["image"])
    (expected,) = network.visual_model.encode(seen)
    torch.testing.assert_close(image.module(seen), expected)
    assert expected.shape == mask.examples[image.outputs[0]].shape
    tokens = vision.module(torch.randn(1, 3, 96, 120))
    assert tokens.shape == (1, 80, 256)
    prompts = 100 * torch.rand(3, 4, 2), torch.tensor([[1, 0, 2, 3], [1, -1, 2, 3], [1] * 4])
    logits, iou = mask.module(expected, *prompts)
    assert logits.shape == (3, 1, 60, 80)
    assert iou.shape == (3, 1)


def test_a_checkpoint_is_loaded_without_its_language_model(network, tmp_path):
    loaded = load(_checkpoint(tmp_path, {**network.state_dict(), **LANGUAGE}))
    assert not loaded.training
    _assert_same(loaded, network)


def test_sam_may_lie_beside(network, tmp_path):
    state = network.state_dict()
    checkpoint = _checkpoint(
        tmp_path, {**{k: v for k, v in state.items() if k[:6] == "model."}, **LANGUAGE}
    )
    with pytest.raises(
        CheckpointError, match="visual_model.* is missing; .*efficientvit_sam_xl1.pt"
    ):
        load(checkpoint)
    torch.save({"state_dict": network.visual_model.state_dict()}, tmp_path / SAM_FILES[0])
    _assert_same(load(checkpoint), network)


def test_the_tuned_decoder_is_laid_over(network, tmp_path):
    tuned = {
        f"model.mask_decoder.{name}": each + 1
        for name, each in network.visual_model.mask_decoder.state_dict().items()
    }
    torch.save(tuned, tmp_path / DECODER_FILE)
    loaded = load(_checkpoint(tmp_path, network.state_dict()))
    found = loaded.visual_model.mask_decoder.state_dict()
    for name, each in tuned.items():
        torch.testing.assert_close(found[name.removeprefix("model.mask_decoder.")], each)
    _assert_same(loaded.visual_model.image_encoder, network.visual_model.image_encoder)
    _assert_same(loaded.visual_model.prompt_encoder, network.visual_model.prompt_encoder)


@pytest.mark.parametrize("change", ["lacks", "more"])
def test_a_decoder_that_is_none_is_refused(network, tmp_path, change):
    tuned = {
        f"model.mask_decoder.{name}": each
        for name, each in network.visual_model.mask_decoder.state_dict().items()
    }
    if change == "lacks":
        del tuned["model.mask_decoder.iou_token.weight"]
    else:
        tuned["model.image_encoder.norm.weight"] = torch.zeros(3)
    torch.save(tuned, tmp_path / DECODER_FILE)
    with pytest.raises(CheckpointError, match="iou_token.weight is missing|norm.weight is unknown"):
        load_decoder(network.visual_model, tmp_path / DECODER_FILE)


def test_an_adapter_changes_the_projector(network, tmp_path):
    torch.manual_seed(2)
    down, up = torch.randn(2, 256), torch.randn(256, 2)
    folder = tmp_path / ADAPTER_FOLDER
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    language = "base_model.model.model.layers.0.self_attn.q_proj"
    lora = {
        "base_model.model.model.mm_projector.0.lora_A.weight": down,
        "base_model.model.model.mm_projector.0.lora_B.weight": up,
        f"{language}.lora_A.weight": torch.zeros(2, 4),
        f"{language}.lora_B.weight": torch.zeros(4, 2),
    }
    save_file(lora, folder / "adapter_model.safetensors")
    loaded = load(_checkpoint(tmp_path, {**network.state_dict(), **LANGUAGE}))
    before, after = network.model.mm_projector, loaded.model.mm_projector
    torch.testing.assert_close(after[0].weight, before[0].weight + 2 * up @ down)
    torch.testing.assert_close(after[2].weight, before[2].weight)
    lora["base_model.model.model.mm_projector.2.lora_A.weight"] = torch.zeros(2, 7)
    lora["base_model.model.model.mm_projector.2.lora_B.weight"] = torch.zeros(256, 2)
    save_file(lora, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"mm_projector.2.weight \(256, 7\), where the model"):
        load(_checkpoint(tmp_path, network.state_dict()))


def test_a_frame_that_is_not_cut_is_one_tile(network):
    _, vision, _ = stages(network)
    assert len(vision.examples["pixels"]) == 1
    assert not vision.varying


def test_the_language_model_lies_in_the_same_folder(network, tmp_path):
    checkpoint = _checkpoint(tmp_path, network.state_dict())
    source = language_of(checkpoint)
    assert (source.folder, source.adapter) == (tmp_path, None)
    assert (source.layout.width, source.layout.is_tied) == (256, True)
    (tmp_path / ADAPTER_FOLDER).mkdir()
    assert language_of(checkpoint).adapter == tmp_path / ADAPTER_FOLDER
    assert tokenizer_of(checkpoint) is None


def test_the_base_that_the_authors_tuned_is_known_by_its_config(network, tmp_path):
    folder = _checkpoint(tmp_path, network.state_dict()).folder
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps(RELEASED | {"vocab_size": 128256}))
    (folder / "README.md").write_text("---\nlicense: llama3\n---\n")
    config = open_checkpoint(folder).config
    assert (config.system, config.variant) == ("sam4mllm", "efficientvit-xl1-llava-next-8b")
    assert (config.max_tokens, config.license) == (8192, "llama3")


def test_another_base_is_refused():
    with pytest.raises(CheckpointError, match="llama3-llava-next-8b .*; got {'vocab_size': 32000}"):
        config_from_released(RELEASED | {"vocab_size": 32000}, [])


def test_settings_are_the_protocol_and_the_tiling(network, tmp_path):
    checkpoint = _checkpoint(tmp_path, network.state_dict())
    settings = settings_of(checkpoint, {"variant": "ppg"})
    assert protocol_from_settings(settings) == replace(MINIATURE, variant="ppg")
    assert tiling_from_settings(settings, views_of(checkpoint)[1]) == tiling(MINI)


@pytest.mark.parametrize("name", PRESETS)
def test_a_whole_protocol_by_its_name(network, tmp_path, name):
    checkpoint, preset = _checkpoint(tmp_path, network.state_dict()), PRESETS[name]
    assert protocol_from_settings(settings_of(checkpoint, {"protocol": name})) == preset
    changed = replace(preset, keep_yes=0.8, count="1+")
    for overrides in (
        {"protocol": name, "keep_yes": "0.8", "count": "1+"},
        {"keep_yes": "0.8", "count": "1+", "protocol": name},
    ):
        settings = settings_of(checkpoint, overrides)
        assert protocol_from_settings(settings) == changed
        assert tiling_from_settings(settings, views_of(checkpoint)[1]) == tiling(MINI)


def test_unknown_names_list_the_known_ones(network, tmp_path):
    with pytest.raises(UnknownNameError, match="one of miniature, paper, released; got 'demo'"):
        load(_checkpoint(tmp_path, network.state_dict()), {"protocol": "demo"})
    with pytest.raises(UnknownNameError, match="sam4mllm must be .*protocol.*got 'mask_choice'"):
        load(_checkpoint(tmp_path, network.state_dict()), {"mask_choice": "single"})
    with pytest.raises(UnknownNameError, match="xl1-llava-next-8b, mini.*; got 'huge'"):
        load(_checkpoint(tmp_path, network.state_dict(), variant="huge"))
