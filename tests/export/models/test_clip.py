import pytest
import torch

from saymask.export.models.clip import CLIP_SPECS, ClipVisionSpec, ClipVisionTower

TINY = ClipVisionSpec(image_hw=(12, 20), patch=4, width=12, heads=3, layers=3, mlp_width=20)


@pytest.fixture
def tower() -> ClipVisionTower:
    torch.manual_seed(0)
    return ClipVisionTower(TINY).eval().requires_grad_(False)


def test_official_size():
    with torch.device("meta"):
        tower = ClipVisionTower(CLIP_SPECS["vit-l/14-336"])
    assert sum(each.numel() for each in tower.parameters()) == 303_507_456
    assert len(tower.state_dict()) == 391


def test_views_need_not_be_square(tower):
    pixels = torch.randn(2, 3, *TINY.image_hw)
    assert tower.features(pixels).shape == (2, 3 * 5, 12)
    before = tower.vision_model.embeddings(pixels)
    pixels[:, :, 4:8, 12:16] += 1
    moved = (tower.vision_model.embeddings(pixels) - before).abs().sum((0, 2))
    assert moved.nonzero().tolist() == [[1 + 1 * 5 + 3]]


def test_the_last_layer_and_norm_are_stored_and_not_used(tower):
    pixels = torch.randn(1, 3, *TINY.image_hw)
    before = tower.features(pixels)
    for unused in (tower.vision_model.encoder.layers[-1], tower.vision_model.post_layernorm):
        for each in unused.parameters():
            each.fill_(float("nan"))
    torch.testing.assert_close(tower.features(pixels), before)
    tower.vision_model.encoder.layers[-2].mlp.fc2.bias.add_(1)
    torch.testing.assert_close(tower.features(pixels), before + 1)


def test_the_miniature_sees_the_worlds_view():
    spec = CLIP_SPECS["mini"]
    assert spec.grid_hw == (8, 10)
    assert spec.image_hw == (96, 120)
