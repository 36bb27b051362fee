from dataclasses import replace

import numpy as np
import pytest
import torch

from saymask.export.models.point_prompts import PointPrompts
from saymask.export.models.sam4mllm import SAM4MLLM_SPECS
from saymask.export.models.sam_visual import SamVisualModel
from saymask.runtime.systems.sam4mllm_text import to_pixels, to_thousandths
from saymask.train.point_groups import CHUNK, GroupRecipe, choose_groups, open_groups
from saymask.train.points import is_inside
from saymask.train.requests import thing_mask

RECIPE = GroupRecipe(scenes=3, tried=12, kept=4)


@pytest.fixture(scope="module")
def prompts() -> PointPrompts:
    torch.manual_seed(0)
    return PointPrompts(SamVisualModel(SAM4MLLM_SPECS["mini"].visual_model)).eval()


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, 128, 15, 20)).astype(np.float16)


@pytest.fixture(scope="module")
def things(boxes):
    """The first two objects of each scene and their first part."""
    return [[(1, 0), (1, 1), (2, 0)] for _ in range(3)]


@pytest.fixture(scope="module")
def chosen(prompts, cache, embeddings, things, boxes):
    return [
        choose_groups(prompts, cache, embeddings, scene, of_scene, boxes[scene], RECIPE)
        for scene, of_scene in enumerate(things)
    ]


def test_points_lie_where_their_labels_say(cache, boxes, chosen):
    assert sum(map(len, chosen)) > 4
    for scene, groups in enumerate(chosen):
        for thing, points in groups.items():
            assert points.shape == (4, 3, 2)
            mask_hw = thing_mask(cache, scene, thing)
            lies = is_inside(mask_hw, to_pixels(points.reshape(-1, 2), mask_hw.shape))
            assert lies.reshape(4, 3).tolist() == [[True, True, False]] * 4
            box = to_thousandths(boxes[scene][thing], (1, 1))
            assert (points >= box[:2]).all()
            assert (points <= box[2:]).all()


def test_the_best_masks_are_kept_in_order(prompts, cache, embeddings, boxes, chosen):
    scene = next(index for index, groups in enumerate(chosen) if groups)
    thing, points = next(iter(chosen[scene].items()))
    everything = choose_groups(
        prompts, cache, embeddings, scene, [thing], boxes[scene], replace(RECIPE, kept=12)
    )[thing]
    mask_hw = thing_mask(cache, scene, thing)
    corners = to_thousandths(boxes[scene][thing], (1, 1)).reshape(2, 2)
    ious = []
    for group in everything:
        xy = to_pixels(np.concatenate([corners, group]), mask_hw.shape)[None]
        with torch.no_grad():
            low, iou = prompts(
                torch.from_numpy(embeddings[scene][None].astype(np.float32)),
                torch.from_numpy(xy),
                torch.tensor([[2, 3, 1, 1, 0]]),
            )
        best = low[:, iou[0].argmax()][None]
        drawn = torch.nn.functional.interpolate(best, mask_hw.shape, mode="bilinear")[0, 0] > 0
        drawn = drawn.numpy()
        ious.append((drawn & mask_hw).sum() / (drawn | mask_hw).sum())
    assert ious == sorted(ious, reverse=True)
    assert ious[0] > ious[-1]
    if thing == (1, 0):  # The first of its scene draws the same groups alone.
        np.testing.assert_array_equal(points, everything[:4])


def test_a_thing_without_room_has_no_group(prompts, cache, embeddings, boxes):
    hidden = (9, 0)
    assert not (cache.instance_map[0] == 9).any()
    found = choose_groups(prompts, cache, embeddings, 0, [hidden], boxes[0], RECIPE)
    assert found == {}


def test_groups_are_kept_on_disk(prompts, cache, embeddings, things, boxes, chosen, tmp_path):
    made = open_groups(tmp_path, prompts, cache, embeddings, things, boxes, RECIPE)
    truth = {(scene, thing): a for scene, of in enumerate(chosen) for thing, a in of.items()}
    assert made.keys() == truth.keys()
    assert all(np.array_equal(made[key], truth[key]) for key in truth)
    assert CHUNK >= 3
    assert [path.name for path in tmp_path.iterdir()] == ["000000.npz"]
    again = open_groups(tmp_path, prompts, cache, embeddings[:0], things, boxes, RECIPE)
    assert all(np.array_equal(made[key], again[key]) for key in made)
