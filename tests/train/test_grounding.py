import numpy as np
import pytest
import torch
from torch.nn import functional

from saymask.export.models.beit3 import BEIT3_SPECS, FIRST_POSITION, BEiT3
from saymask.runtime.tokenizer import XlmRoberta
from saymask.train.grounding import (
    GAZE_HEADS,
    GAZE_LAYERS,
    Grounding,
    box_iou,
    grounding_batch,
    start_positions,
)
from saymask.train.losses import IGNORED, mask_dice

SPEC = BEIT3_SPECS["mini"]
ROWS, COLUMNS = SPEC.grid_hw
PATCHES = ROWS * COLUMNS
TOKENS = 12


@pytest.fixture(scope="module")
def ids(cache) -> np.ndarray:
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 512, (len(cache.phrases.texts), TOKENS))
    ids[:, 0], ids[:, 8], ids[:, 9:] = XlmRoberta.BEGIN, XlmRoberta.END, XlmRoberta.PAD
    return ids


@pytest.fixture(scope="module")
def batch_of(cache, ids, mini_views):
    def batch_of(chosen: np.ndarray) -> dict[str, torch.Tensor]:
        masks = torch.from_numpy(cache.phrase_masks(chosen))
        return grounding_batch(cache, mini_views[1], ids, chosen, masks, grid_hw=SPEC.grid_hw)

    return batch_of


@pytest.fixture(scope="module")
def phase() -> Grounding:
    torch.manual_seed(0)
    return Grounding(BEiT3(SPEC), is_compiled=False).eval()


def test_box_iou_of_pairs():
    whole, left = [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0]
    predicted = torch.tensor([left, left, left, [0.5, 0.5, 0.1, 0.1]])
    truth = torch.tensor([whole, left, [0.75, 0.0, 1.0, 1.0], whole])
    assert box_iou(predicted, truth).tolist() == pytest.approx([0.5, 1, 0, 0])


def test_places_boxes_and_names_are_those_of_the_phrases(cache, batch_of):
    chosen = np.arange(0, len(cache.phrases.texts), 3)
    batch = batch_of(chosen)
    assert batch["image"].shape == (len(chosen), 3, *SPEC.image_hw)
    assert batch["parts"].shape == batch["colors"].shape == (len(chosen), PATCHES)
    category, color = cache.target_names(chosen)
    assert (batch["category"].numpy() == category).all()
    assert (batch["color"].numpy() == color).all()
    for row, mask in enumerate(cache.phrase_masks(chosen)):
        rows, columns = np.nonzero(mask)
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        by_hand = np.array(edges) / (160, 120, 160, 120)
        np.testing.assert_allclose(batch["box_xyxy"][row].numpy(), by_hand, rtol=1e-6)
        # A patch of the grid spans 160 / 10 columns and 120 / 8 rows.
        patch = mask[5 * 15 : 6 * 15, 6 * 16 : 7 * 16]
        cover = batch["cover"][row, 5 * COLUMNS + 6].item()
        assert cover == pytest.approx(patch.mean(), abs=1e-6)


def test_the_loss_is_places_box_names_and_gaze(phase, batch_of):
    batch = batch_of(np.arange(10))
    batch["category"][0] = IGNORED
    with torch.no_grad():
        loss, figures = phase(**batch)
        states, gaze = phase.encode(batch["image"], batch["token_ids"])
        patches, prompt = states[:, 1 : 1 + PATCHES], states[:, 0]
        place = phase.place_head(patches)[..., 0]
        box = phase.box_head(prompt).sigmoid()
        parts, colors = phase.part_head(patches), phase.patch_color_head(patches)
        category, color = phase.category_head(prompt), phase.color_head(prompt)
    probability, cover = place.sigmoid(), batch["cover"]
    bce = -(cover * probability.log() + (1 - cover) * (1 - probability).log()).mean()
    names = -sum(
        head.log_softmax(-1).gather(-1, real[..., None]).mean()
        for head, real in ((parts, batch["parts"]), (colors, batch["colors"]))
    )
    named = sum(
        functional.cross_entropy(head, real, ignore_index=IGNORED)
        for head, real in ((category, batch["category"]), (color, batch["color"]))
    )
    share = cover / cover.sum(1, keepdim=True)
    by_hand = {
        "place": 2 * bce + mask_dice(place, cover),
        "box": (box - batch["box_xyxy"]).abs().mean(),
        "names": names,
        "named": named,
        "gaze": -(share[:, None] * gaze.log_softmax(-1)).sum(-1).mean(),
        "images": torch.tensor(10.0),
    }
    for name, value in by_hand.items():
        assert figures[name].item() == pytest.approx(value.item(), rel=1e-4), name
    weights = {"place": 1, "box": 4, "names": 0.3, "named": 0.3, "gaze": 0.3}
    total = sum(weight * by_hand[name].item() for name, weight in weights.items())
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_the_states_are_beit3s_and_the_gaze_its_attention(phase, batch_of):
    batch = batch_of(np.arange(3))
    weights = []
    layer = phase.beit3.encoder.layers[-1].self_attn
    attention = torch.softmax

    def watch(logits, **options):
        weights.append(logits)
        return attention(logits, **options)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        states, gaze = phase.encode(batch["image"], batch["token_ids"])
        patch.setattr(torch, "softmax", watch)
        expected = phase.beit3(batch["image"], batch["token_ids"])
    torch.testing.assert_close(states, expected)
    assert gaze.shape == (3, GAZE_LAYERS * GAZE_HEADS, PATCHES)
    assert weights[-1].shape[1] == layer.heads
    for place, logits in enumerate(weights[-GAZE_LAYERS:]):
        looked = gaze[:, place * GAZE_HEADS : (place + 1) * GAZE_HEADS]
        torch.testing.assert_close(looked, logits[:, :GAZE_HEADS, 0, 1 : 1 + PATCHES])


def test_near_patches_start_with_near_positions():
    beit3 = BEiT3(SPEC)
    start_positions(beit3)
    table = beit3.encoder.embed_positions.A.weight.detach()
    assert not table[: FIRST_POSITION + 1].any()
    cells = table[FIRST_POSITION + 1 :].view(ROWS, COLUMNS, -1)
    assert len(torch.unique(cells.flatten(0, 1), dim=0)) == PATCHES
    away = (cells - cells[3, 4]).norm(dim=-1)
    assert (away[3, 4:].diff()[:3] > 0).all()
    assert (away[3:, 4].diff()[:3] > 0).all()
