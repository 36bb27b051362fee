import numpy as np
import pytest
import torch

from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.models.sam_visual import SamVisualModel
from saymask.train.cache import COLOR_CLASSES, PART_CLASSES
from saymask.train.losses import mask_bce, mask_dice, mask_iou
from saymask.train.pretrain_sam import (
    BACKGROUND,
    BOTTOM_RIGHT,
    FOREGROUND,
    NO_POINT,
    POINTS,
    TOP_LEFT,
    SamPretraining,
    draw_prompts,
)

SPEC = EVF_SAM_SPECS["mini"].visual_model
GRID_HW = SPEC.mask_decoder.grid_hw


def drawn(cache, mini_views, seed=0, **sizes):
    sizes = {"scenes": 24, "images": 24, "prompts": 20, "grid_hw": GRID_HW} | sizes
    return draw_prompts(cache, mini_views[0], np.random.default_rng(seed), **sizes)


@pytest.fixture(scope="module")
def batch(cache, mini_views):
    return drawn(cache, mini_views)


@pytest.fixture(scope="module")
def is_box(batch):
    return batch["labels"][:, 0] == TOP_LEFT


def test_a_batch_has_its_shapes(batch):
    assert batch["image"].shape == (24, 3, 120, 160)
    assert batch["points_xy"].shape == (480, POINTS, 2)
    assert batch["truth"].shape == (480, 120, 160)
    assert batch["truth"].dtype == torch.bool
    assert batch["truth"].flatten(1).any(1).all(), "every prompt asks for something"
    assert batch["parts"].shape == batch["colors"].shape == (24, *GRID_HW)


def test_points_lie_where_their_labels_say(batch, is_box):
    counts = np.zeros(3, int)
    for points_xy, labels, truth in zip(
        batch["points_xy"][~is_box], batch["labels"][~is_box], batch["truth"][~is_box], strict=True
    ):
        is_point = labels != NO_POINT
        assert labels[0] == FOREGROUND
        assert is_point.int().diff().max() <= 0, "empty slots come last"
        x, y = points_xy[is_point].long().T
        assert truth[y, x].tolist() == (labels[is_point] == FOREGROUND).tolist()
        counts[is_point.sum() - 1] += 1
    assert (counts > 30).all(), "one, two and three points are drawn"
    assert BACKGROUND in batch["labels"]


def test_points_mean_whole_objects_and_boxes_also_parts(batch, cache, is_box):
    chosen = np.random.default_rng(0).integers(24, size=24)
    instances = torch.from_numpy(cache.instance_map[chosen]).repeat_interleave(20, 0)
    values = (instances * batch["truth"]).flatten(1).amax(1)
    is_whole = (batch["truth"] == (instances == values[:, None, None])).flatten(1).all(1)
    assert is_whole[~is_box].all()
    assert 0.2 < (~is_whole[is_box]).float().mean() < 0.45


def test_boxes_are_jittered_around_the_truth(batch, is_box):
    assert 0.4 < is_box.float().mean() < 0.6
    labels = torch.tensor([TOP_LEFT, BOTTOM_RIGHT, NO_POINT, NO_POINT])
    shares = []
    for points_xy, found, truth in zip(
        batch["points_xy"][is_box], batch["labels"][is_box], batch["truth"][is_box], strict=True
    ):
        assert torch.equal(found, labels)
        y, x = torch.nonzero(truth).T
        corners = torch.tensor([[x.min(), y.min()], [x.max(), y.max()]]).float()
        jitter = points_xy[:2] - corners
        side = (corners[1] - corners[0]).clamp(min=1)
        assert (jitter.abs() <= 20.01).all()
        assert (jitter.abs() / side).max() < 0.6
        shares.append(jitter / side)
    assert 0.08 < torch.stack(shares).std() < 0.12
    assert torch.stack(shares).mean().abs() < 0.02


def test_the_same_seed_draws_the_same_prompts_from_the_first_scenes(cache, mini_views):
    first, again = (drawn(cache, mini_views, 3, scenes=2, images=6, prompts=2) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert len(torch.unique(first["image"].flatten(1), dim=0)) == 2


def test_the_loss_is_masks_quality_and_names(cache, mini_views):
    torch.manual_seed(0)
    phase = SamPretraining(SamVisualModel(SPEC), SPEC.mask_decoder.width).eval()
    batch = drawn(cache, mini_views, images=2, prompts=3)
    with torch.no_grad():
        loss, figures = phase(**batch)
        embedding = phase.visual_model.image_encoder(batch["image"])
        sparse = phase.visual_model.prompt_encoder.points(batch["points_xy"], batch["labels"])
        low, iou = phase.visual_model.decode((embedding[[0, 0, 0, 1, 1, 1]],), sparse)
        logits = torch.nn.functional.interpolate(low, (120, 160), mode="bilinear")[:, 0]
        parts, colors = phase.part_head(embedding), phase.color_head(embedding)
    truth = batch["truth"]
    real = mask_iou(logits, truth)
    names = -sum(
        head.log_softmax(1).gather(1, real_names[:, None]).mean()
        for head, real_names in ((parts, batch["parts"]), (colors, batch["colors"]))
    )
    masks = mask_bce(logits, truth.float()) + mask_dice(logits, truth.float())
    by_hand = masks + 0.2 * (iou[:, 0] - real).square().mean() + 0.5 * names
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert figures["gIoU"].item() == pytest.approx(real.mean().item())
    assert figures["images"].item() == 2
    assert parts.shape[1] == PART_CLASSES
    assert colors.shape[1] == COLOR_CLASSES
