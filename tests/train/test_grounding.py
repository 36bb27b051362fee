import math

import numpy as np
import pytest
import torch

from saymask.export.models.beit3 import BEIT3_SPECS, BEiT3
from saymask.runtime.tokenizer import XlmRoberta
from saymask.train.losses import IGNORED, mask_dice
from saymask.train.pretrain_beit3 import (
    SPECIALS,
    BEiT3Pretraining,
    box_iou,
    draw_grounding,
    hide_words,
)

GRID_HW = (11, 14)
MIX = {"single": 0.6, "part": 0.2, "semantic": 0.2}
TOKENS = 12


@pytest.fixture(scope="module")
def ids(cache) -> np.ndarray:
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 512, (len(cache.phrases.texts), TOKENS))
    ids[:, 0], ids[:, 8], ids[:, 9:] = XlmRoberta.BEGIN, XlmRoberta.END, XlmRoberta.PAD
    return ids


@pytest.fixture(scope="module")
def drawn(cache, ids, mini_views):
    def draw(seed: int, count: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(seed)
        view = mini_views[1]
        return draw_grounding(cache, view, ids, rng, mix=MIX, count=count, grid_hw=GRID_HW)

    return draw


@pytest.fixture(scope="module")
def phase() -> BEiT3Pretraining:
    torch.manual_seed(0)
    return BEiT3Pretraining(BEiT3(BEIT3_SPECS["mini"]), is_compiled=False).eval()


def test_hidden_words_are_returned_and_specials_never_hidden():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 20, (3000, TOKENS))
    shown, hidden = hide_words(ids, rng, unknown_id=XlmRoberta.UNKNOWN, specials=SPECIALS)
    is_hidden = hidden != IGNORED
    assert not np.isin(ids[is_hidden], SPECIALS).any()
    np.testing.assert_array_equal(hidden[is_hidden], ids[is_hidden])
    assert (shown[is_hidden] == XlmRoberta.UNKNOWN).all()
    np.testing.assert_array_equal(shown[~is_hidden], ids[~is_hidden])
    rows = is_hidden.any(1)
    assert abs(rows.mean() - 0.2) < 0.03
    words = ~np.isin(ids[rows], SPECIALS)
    assert abs(is_hidden[rows].sum() / words.sum() - 0.3) < 0.04


def test_box_iou_of_pairs():
    whole, left = [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0]
    predicted = torch.tensor([left, left, left, [0.5, 0.5, 0.1, 0.1]])
    truth = torch.tensor([whole, left, [0.75, 0.0, 1.0, 1.0], whole])
    assert box_iou(predicted, truth).tolist() == pytest.approx([0.5, 1, 0, 0])


def test_places_and_boxes_are_those_of_the_phrases(cache, drawn):
    batch = drawn(4, 40)
    chosen = np.random.default_rng(4)
    tasks = chosen.choice(3, size=40, p=list(MIX.values()))
    of_task = [np.flatnonzero(cache.phrases.task == name) for name in MIX]
    masks = cache.phrase_masks(np.array([chosen.choice(of_task[task]) for task in tasks]))
    assert batch["cover"].shape == (40, 11 * 14)
    assert batch["image"].shape == (40, 3, 88, 112)
    assert batch["parts"].shape == batch["colors"].shape == (40, 11 * 14)
    for mask, cover, box_xyxy in zip(masks, batch["cover"], batch["box_xyxy"], strict=True):
        rows, columns = np.nonzero(mask)
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        by_hand = np.array(edges) / (160, 120, 160, 120)
        np.testing.assert_allclose(box_xyxy.numpy(), by_hand, rtol=1e-6)
        # A patch of the grid spans 160 / 14 columns and 120 / 11 rows, rounded outwards.
        patch = mask[5 * 120 // 11 : -(-6 * 120 // 11), 6 * 160 // 14 : -(-7 * 160 // 14)]
        assert cover[5 * 14 + 6].item() == pytest.approx(patch.mean(), abs=1e-6)


def test_the_loss_is_places_boxes_names_and_words(phase, drawn):
    batch = drawn(1, 10)
    is_whole = (batch["hidden_ids"] == IGNORED).all(1)
    assert 0 < is_whole.sum() < 10
    with torch.no_grad():
        loss, figures = phase(**batch)
        states = phase.beit3(batch["image"], batch["token_ids"])
        place = phase.place_head(states[is_whole, 1:155])[..., 0]
        box = phase.box_head(states[is_whole, 0]).sigmoid()
        parts, colors = phase.part_head(states[:, 1:155]), phase.color_head(states[:, 1:155])
        words = phase.word_head(states[:, 155:]).log_softmax(-1)
    probability, cover = place.sigmoid(), batch["cover"][is_whole]
    bce = -(cover * probability.log() + (1 - cover) * (1 - probability).log()).mean()
    names = -sum(
        head.log_softmax(-1).gather(-1, real[..., None]).mean()
        for head, real in ((parts, batch["parts"]), (colors, batch["colors"]))
    )
    is_hidden = batch["hidden_ids"] != IGNORED
    said = -words[is_hidden].gather(1, batch["hidden_ids"][is_hidden][:, None]).mean()
    by_hand = {
        "place": 2 * bce + mask_dice(place, cover),
        "box": (box - batch["box_xyxy"][is_whole]).abs().mean(),
        "names": names,
        "words": said,
        "images": torch.tensor(10.0),
    }
    for name, value in by_hand.items():
        assert figures[name].item() == pytest.approx(value.item(), rel=1e-4), name
    total = by_hand["place"] + 2 * by_hand["box"] + 0.5 * names + 0.5 * said
    assert loss.item() == pytest.approx(total.item(), rel=1e-4)


def test_a_batch_without_hidden_words_has_no_loss_of_words(phase, drawn):
    batch = drawn(1, 4)
    batch["hidden_ids"] = torch.full((4, TOKENS), IGNORED)
    with torch.no_grad():
        loss, figures = phase(**batch)
    assert figures["words"].item() == 0
    assert math.isfinite(loss.item())
