from __future__ import annotations

import numpy as np
import pytest
import torch

from saymask.export.models.clip import CLIP_SPECS, ClipVisionTower
from saymask.runtime.spec import ViewSpec
from saymask.train.cache import MAX_PARTS
from saymask.train.loop import LoopRecipe, fit
from saymask.train.pretrain_clip import SeeingPatches, draw_patches, patch_truth, start_positions

SPEC = CLIP_SPECS["mini"]
ROWS, COLUMNS = SPEC.grid_hw


@pytest.fixture(scope="module")
def view(mini_views) -> ViewSpec:
    return mini_views[1]


@pytest.fixture
def phase() -> SeeingPatches:
    torch.manual_seed(0)
    tower = ClipVisionTower(SPEC)
    start_positions(tower, SPEC)
    return SeeingPatches(tower, SPEC.width, is_compiled=False)


def _draw(cache, boxes, view, images: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return draw_patches(cache, boxes, view, rng, scenes=20, images=images, grid_hw=SPEC.grid_hw)


def test_patches_are_named_and_boxed_as_the_maps_say(cache, boxes):
    truth = patch_truth(cache, boxes, np.array([3, 8]), SPEC.grid_hw)
    parts, colors = cache.names(np.array([3, 8]), SPEC.grid_hw)
    np.testing.assert_array_equal(truth["names"][..., 0].numpy(), parts.reshape(2, -1))
    np.testing.assert_array_equal(truth["names"][..., 1].numpy(), colors.reshape(2, -1))
    # The centre of a patch of 12 pixels lies at 7.5 of 15 rows and 8 of 16 columns of the maps.
    row, column = np.argwhere(truth["names"][1, :, 0].numpy().reshape(ROWS, COLUMNS))[0]
    y, x = int(15 * row + 7.5), 16 * column + 8
    instance, part = cache.instance_map[8, y, x], cache.part_map[8, y, x]
    assert parts[1, row, column] == (cache.things[8, instance, 0] - 1) * MAX_PARTS + part
    both = truth["boxes"][1, row * COLUMNS + column].numpy()
    np.testing.assert_array_equal(both, [*boxes[8, instance, 0], *boxes[8, instance, part]])
    assert truth["names"][1, row * COLUMNS + column, 2] == cache.things[8, instance, 2]


def test_the_right_guess_costs_least(cache, boxes, view, phase):
    batch = _draw(cache, boxes, view, 2)
    loss, figures = phase(**batch)
    assert figures["images"] == 2
    assert loss.item() == pytest.approx((figures["names"] + 2 * figures["boxes"]).item(), rel=1e-5)
    with torch.no_grad():
        for head, labels in zip(phase.name_heads, (5, 2, 1), strict=True):
            head.weight.zero_()
            head.bias.zero_()
            head.bias[labels] = 50
        batch["names"][:] = torch.tensor([5, 2, 1])
        phase.box_head.weight.zero_()
        phase.box_head.bias.copy_(phase.waves[30].repeat(8))
        costs = []
        for edge in (0.2, 0.3, 0.4):
            batch["boxes"][:] = edge
            _, figures = phase(**batch)
            assert figures["edge_error"] == pytest.approx(abs(1000 * edge - 300), abs=0.01)
            costs.append(figures["boxes"].item())
    assert figures["names"] < 1e-6
    assert costs[1] < 0.2 * min(costs[0], costs[2])


def test_positions_of_neighbors_are_near():
    tower = ClipVisionTower(SPEC)
    start_positions(tower, SPEC)
    table = tower.vision_model.embeddings.position_embedding.weight.detach()
    assert not table[0].any(), "the class token has no place"
    places = table[1:].unflatten(0, SPEC.grid_hw)
    near = (places[3, 4] - places[3, 5]).norm()
    assert near < (places[3, 4] - places[3, 9]).norm()
    assert near < (places[3, 4] - places[7, 4]).norm()


def test_a_few_steps_lower_the_loss(cache, boxes, view, phase, tmp_path):
    batch = _draw(cache, boxes, view, 4)
    with torch.no_grad():
        before = phase(**batch)[0].item()
    quick = LoopRecipe(
        steps=6, learning_rate=2e-3, warmup_steps=0, optimizer="muon", mixed_precision="no",
        save_every=20, is_on_cpu=True,
    )  # fmt: skip
    fit(phase, lambda rng: batch, quick, tmp_path / "tower")
    with torch.no_grad():
        assert phase(**batch)[0].item() < 0.8 * before
