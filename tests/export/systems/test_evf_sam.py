import json
import shutil

import pytest
import torch

from saymask.export.checkpoint import open_checkpoint
from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.systems import SYSTEMS, evf_sam, system_module
from saymask.export.systems.evf_sam import load, stages, views
from saymask.export.systems.evf_sam_releases import RELEASES
from saymask.runtime.errors import CheckpointError, UnknownNameError
from saymask.runtime.tokenizer import TOKENIZERS

OFFICIAL = EVF_SAM_SPECS["efficientvit-xl0-beit3-large"]


def test_it_is_in_the_table():
    assert system_module("evf-sam") is evf_sam
    with pytest.raises(UnknownNameError, match="must be one of evf-sam, sam4mllm; got 'evf-sam2'"):
        system_module("evf-sam2")
    assert set(SYSTEMS) == {"evf-sam", "sam4mllm"}


def test_views_are_the_references():
    sam, beit = views(OFFICIAL, RELEASES["evf-sam"])
    assert (sam.name, sam.size_hw, sam.fit, sam.interpolation) == (
        "sam", (1024, 1024), "pad", "bilinear",
    )  # fmt: skip
    assert sam.is_antialiased
    assert sam.rounds_to_uint8
    assert sam.canvas_hw == (1024, 1024)
    assert (sam.mean_rgb[0], sam.std_rgb[2]) == (123.675, 57.375)
    assert (beit.name, beit.size_hw, beit.fit, beit.interpolation) == (
        "beit", (224, 224), "stretch", "bicubic",
    )  # fmt: skip
    assert not beit.is_antialiased
    assert not beit.rounds_to_uint8
    assert beit.mean_rgb == beit.std_rgb == (127.5, 127.5, 127.5)


def test_encoders_of_512_pixels_answer_on_sams_canvas():
    sam, _ = views(EVF_SAM_SPECS["efficientvit-l0-beit3-base"], RELEASES["evf-sam"])
    assert (sam.size_hw, sam.canvas_hw) == ((512, 512), (1024, 1024))


def test_the_miniatures_views_are_smooth():
    sam, beit = views(EVF_SAM_SPECS["mini"])
    assert (sam.fit, sam.size_hw, sam.canvas_hw) == ("pad", (120, 160), (120, 160))
    assert sam.is_antialiased
    assert beit.is_antialiased
    assert not sam.rounds_to_uint8
    assert not beit.rounds_to_uint8


def test_the_semantic_tag_and_the_tokenizer_are_evf_sams(tiny_checkpoint):
    assert dict(evf_sam.TEMPLATES)["semantic"].format(phrase="sky") == "[semantic] sky"
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert evf_sam.tokenizer_of(checkpoint).kind in TOKENIZERS
    assert evf_sam.language_of(checkpoint) is None


def test_stages_run_one_after_the_other(tiny_network):
    first, second, third = stages(tiny_network)
    assert [each.name for each in (first, second, third)] == ["image", "prompt", "mask"]
    assert second.varying == {"token_ids": {0: "phrases", 1: "tokens"}}
    assert third.varying == {"prompt_embedding": {0: "phrases"}}
    assert set(third.examples) == {*first.outputs, *second.outputs}


@torch.no_grad()
def test_the_three_stages_are_the_network(tiny_network):
    torch.manual_seed(0)
    first, second, third = stages(tiny_network)
    sam, beit = (torch.randn_like(each.examples["image"]) for each in (first, second))
    token_ids = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1], [0, 9, 8, 2]])
    features = first.module(sam)
    assert [each.shape for each in features] == [
        third.examples[name].shape for name in first.outputs
    ]
    logits, iou = third.module(second.module(beit, token_ids), *features)
    torch.testing.assert_close(logits, tiny_network(features, beit, token_ids))
    assert iou.shape == (3, 1)


def test_a_checkpoint_is_loaded_for_use(tiny_checkpoint, tiny_network):
    network = load(open_checkpoint(tiny_checkpoint))
    assert not network.training
    for name, value in network.state_dict().items():
        wanted = tiny_network.state_dict()[name]
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-3)


@pytest.fixture
def changed(tiny_checkpoint, tmp_path):
    """Copies the tiny checkpoint with another config."""

    def change(**config: object):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / "changed")
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return open_checkpoint(folder)

    return change


def test_an_unknown_variant_lists_the_known_ones(changed):
    with pytest.raises(UnknownNameError, match="efficientvit-l0-beit3-base, .*; got 'huge'"):
        load(changed(variant="huge"))


@pytest.mark.parametrize("max_tokens", [2, 49])
def test_phrases_longer_than_the_position_table_are_refused(changed, max_tokens):
    with pytest.raises(CheckpointError, match=f"from 3 to 48; got {max_tokens}; correct .*config"):
        load(changed(max_tokens=max_tokens))


def test_weights_of_another_variant_are_refused(changed):
    with pytest.raises(CheckpointError, match="must fit evf-sam mini name by name"):
        load(changed(variant="mini"))


SWITCHES = (
    ("preprocess", "stretch"), ("beit_view", "sharp"), ("mask_choice", "best"),
)  # fmt: skip


def test_a_renamed_release_is_told_by_what_its_config_was_made_from(changed, monkeypatch):
    variant = "sam2-l-beit3-large"
    checkpoint = changed(variant=variant)
    monkeypatch.setitem(EVF_SAM_SPECS, variant, EVF_SAM_SPECS["tiny"])
    assert evf_sam.settings_of(checkpoint)[:3] == SWITCHES
    assert "neither the config nor the name changed tells" in evf_sam.remarks_on(checkpoint)[0]
    path = checkpoint.folder / "config.json"
    path.write_text(json.dumps({"_name_or_path": "YxZhang/evf-sam2"}))
    settings = dict(evf_sam.settings_of(checkpoint))
    assert (settings["preprocess"], settings["mask_choice"]) == ("fill", "stable")
    assert settings["told_by"] == "the release evf-sam2 has them"
    sam, _ = evf_sam.views_of(checkpoint)
    assert sam.fit == "fill"
    path.unlink()
    assert evf_sam.settings_of(checkpoint)[:3] == SWITCHES
