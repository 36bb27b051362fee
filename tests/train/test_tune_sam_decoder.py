import numpy as np
import pytest
import torch
from torch.nn import functional

from saymask.export.models.sam4mllm import SAM4MLLM_SPECS
from saymask.export.models.sam_visual import SamVisualModel
from saymask.train.losses import mask_bce, mask_dice, mask_iou
from saymask.train.points import is_inside
from saymask.train.pretrain_sam import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, NO_POINT, TOP_LEFT
from saymask.train.tune_sam_decoder import (
    LEAST_SHARE,
    MOST_POINTS,
    SamDecoderTuning,
    draw_boxes_and_points,
)


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, 128, 15, 20)).astype(np.float16)


@pytest.fixture(scope="module")
def drawn(cache, embeddings):
    return lambda seed, **sizes: draw_boxes_and_points(
        cache, embeddings, np.random.default_rng(seed), **({"images": 4, "prompts": 3} | sizes)
    )


@pytest.fixture(scope="module")
def batches(drawn):
    return [drawn(seed) for seed in range(24)]


@pytest.fixture(scope="module")
def phase() -> SamDecoderTuning:
    torch.manual_seed(0)
    return SamDecoderTuning(SamVisualModel(SAM4MLLM_SPECS["mini"].visual_model)).eval()


def test_a_batch_has_its_shapes(batches):
    slots = set()
    for batch in batches:
        assert batch["image_embedding"].shape == (4, 128, 15, 20)
        assert batch["truth"].shape == (12, 120, 160)
        assert batch["points_xy"].shape == (12, batch["labels"].shape[1], 2)
        assert batch["labels"][:, :2].tolist() == [[TOP_LEFT, BOTTOM_RIGHT]] * 12
        slots.add(batch["labels"].shape[1] - 2)
    assert slots == set(MOST_POINTS)


def test_labels_are_mostly_the_masks(batches):
    right, labels = [], []
    for batch in batches:
        for xy, those, truth in zip(
            batch["points_xy"], batch["labels"], batch["truth"], strict=True
        ):
            points = (those == FOREGROUND) | (those == BACKGROUND)
            assert (points[2:].int().diff() <= 0).all(), "empty slots come last"
            lies = is_inside(truth.numpy(), xy[points].numpy())
            right += (lies == (those[points] == FOREGROUND).numpy()).tolist()
            labels += those[2:].tolist()
    assert 0.75 < np.mean(right) < 0.93
    assert {NO_POINT, BACKGROUND, FOREGROUND} == set(labels)


def test_boxes_are_near_the_truth(batches):
    slips = []
    for batch in batches:
        for xy, truth in zip(batch["points_xy"], batch["truth"], strict=True):
            y, x = torch.nonzero(truth).T
            corners = torch.tensor([[x.min(), y.min()], [x.max() + 1, y.max() + 1]]).float()
            slips.append((xy[:2] - corners) / (corners[1] - corners[0]))
            assert truth.sum() >= LEAST_SHARE * truth.numel()
            assert (xy[0] <= xy[1]).all()
    slips = torch.stack(slips)
    assert 0.03 < slips.std() < 0.13
    assert slips.mean().abs() < 0.02


def test_the_same_seed_draws_the_same(drawn):
    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["truth"], other["truth"])


def test_the_loss_is_the_single_masks_and_the_least_of_three(phase, drawn):
    batch = drawn(0, images=2, prompts=2)
    with torch.no_grad():
        loss, figures = phase(**batch)
        embeddings = batch["image_embedding"][[0, 0, 1, 1]]
        low, iou = phase.prompts(embeddings, batch["points_xy"], batch["labels"])
    logits = functional.interpolate(low, (120, 160), mode="bilinear")
    truth = batch["truth"]
    each = torch.tensor([
        [
            mask_bce(logits[row, None, mask], truth[row, None].float())
            + mask_dice(logits[row, None, mask], truth[row, None].float())
            for mask in range(4)
        ]
        for row in range(4)
    ])  # fmt: skip
    real = torch.stack([mask_iou(logits[:, mask], truth) for mask in range(4)], dim=1)
    by_hand = each[:, 0].mean() + each[:, 1:].min(1).values.mean()
    by_hand = by_hand + 0.2 * (iou - real).square().mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert figures["single"].item() == pytest.approx(real[:, 0].mean().item())
    rows = torch.arange(4)
    assert figures["best"].item() == pytest.approx(
        real[rows, 1 + iou[:, 1:].argmax(1)].mean().item()
    )


def test_only_the_decoder_learns(phase, drawn):
    loss, _ = phase(**drawn(0, images=1, prompts=2))
    loss.backward()
    learned = {name for name, each in phase.named_parameters() if each.grad is not None}
    assert learned
    assert all(name.startswith("prompts.mask_decoder.") for name in learned)
    phase.zero_grad()
