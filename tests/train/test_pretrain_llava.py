from __future__ import annotations

import numpy as np
import pytest
import torch

from saymask.export.models.llava_llama import LLAVA_SPECS, LlavaLlama
from saymask.runtime.spec import ViewSpec
from saymask.train.loop import LoopRecipe, fit
from saymask.train.losses import IGNORED
from saymask.train.packing import PADDING
from saymask.train.pretrain_llava import (
    GAZE_HEADS,
    GAZE_LAYERS,
    LlavaPretraining,
    draw_talk,
    shared_prefix_mask,
    start_words,
)
from saymask.train.talk import Talk, TalkMix

SPEC = LLAVA_SPECS["mini"]
GRID_HW = SPEC.vision.vision_tower.grid_hw
PATCHES = GRID_HW[0] * GRID_HW[1]
TOKENS = 220


@pytest.fixture(scope="module")
def view(mini_views) -> ViewSpec:
    return mini_views[1]


@pytest.fixture
def phase(tokens) -> LlavaPretraining:
    torch.manual_seed(0)
    network = LlavaLlama(SPEC)
    start_words(network.language.model, tokens)
    return LlavaPretraining(network, tokens, "You see.", held_out=1, is_compiled=False)


@pytest.fixture(scope="module")
def batch(cache, boxes, sayings, tokens, view) -> dict[str, torch.Tensor]:
    talk = Talk(cache, boxes, sayings, tokens, GRID_HW)
    mix, rng = TalkMix(shares={"single": 0.6, "points": 0.4}), np.random.default_rng(0)
    return draw_talk(cache, view, talk, mix, rng, scenes=20, images=2, held_out=1, tokens=TOKENS)


def _states(phase: LlavaPretraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    names = ("image", "ids", "turn", "branch", "place")
    with torch.no_grad():
        return phase.states(*(batch[name] for name in names))[0]


def _stirred(phase: LlavaPretraining) -> LlavaPretraining:
    """Give layers that change nothing yet something to do."""
    for layer in phase.network.language.model.layers:
        for weight in layer.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    return phase


def test_the_mask_shows_the_prefix_and_the_own_way():
    turn = torch.tensor([[0, 0, 0, 0, 1, PADDING]])
    branch = torch.tensor([[0, 1, 1, 2, 0, 0]])
    mask = shared_prefix_mask(turn, branch, prefix=2)[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 0, 0, 1],
    ]


def test_packed_turns_are_as_if_each_stood_alone(phase, batch):
    packed = _states(_stirred(phase), batch)
    row = int(batch["turn"].amax(1).argmax())
    turn = batch["turn"][row].max()
    assert turn > 0, "something stands before it"
    here = batch["turn"][row] == turn
    if batch["branch"][row][here].max() > 0:
        here &= (batch["branch"][row] == 0) | (batch["branch"][row] == 1)
    count = int(here.sum())
    alone = {name: batch[name][row : row + 1, here] for name in ("ids", "turn", "branch")}
    alone |= {"image": batch["image"][row : row + 1], "place": torch.arange(count)[None]}
    torch.testing.assert_close(_states(phase, alone)[0], packed[row, here], atol=1e-4, rtol=1e-4)


def test_near_numbers_start_near_and_layers_change_nothing(phase, batch, tokens):
    model = phase.network.language.model
    assert torch.equal(phase.network.language.lm_head.weight, model.embed_tokens.weight)
    rows = model.embed_tokens.weight[torch.from_numpy(tokens.number_ids())]
    assert (rows[500] - rows[501]).norm() < 0.5 * (rows[500] - rows[540]).norm()
    embedded = model.norm(model.embed_tokens(batch["ids"]))
    torch.testing.assert_close(_states(phase, batch), embedded)


def test_held_out_images_teach_nothing(phase, batch):
    loss, figures = phase(**batch)
    other = dict(batch)
    other["labels"] = batch["labels"].clone()
    is_asked = other["labels"][-1] != IGNORED
    other["labels"][-1][is_asked] = phase.number_ids[7]
    changed, others = phase(**other)
    assert changed.item() == loss.item()
    assert figures["images"] == 3
    assert others.keys() == figures.keys()


def test_the_tower_stays_as_it_is(phase, batch):
    phase(**batch)[0].backward()
    vision = phase.network.vision
    assert all(weight.grad is None for weight in vision.vision_tower.parameters())
    assert all(weight.grad is not None for weight in vision.mm_projector.parameters())


def test_the_loss_of_words_and_numbers(phase):
    number, word = int(phase.number_ids[400]), 3
    labels = torch.tensor([number, word])
    logits = torch.zeros(2, SPEC.language.vocabulary)
    logits[1, word] = 40
    logits[0, phase.number_ids] = 30 - 0.5 * ((torch.arange(1000) - 400) / 4.0) ** 2
    loss, figures = phase.speech_loss(logits, labels)
    assert loss < 1e-3
    assert figures["right"] == 1
    wrong, _ = phase.speech_loss(logits.flip(0), labels)
    assert wrong > 10


def test_looks_are_logits_of_the_first_heads(phase, batch):
    names = ("image", "ids", "turn", "branch", "place")
    with torch.no_grad():
        _, gaze = _stirred(phase).states(*(batch[name] for name in names))
    assert gaze.shape == (3, GAZE_LAYERS * GAZE_HEADS, TOKENS, PATCHES)
    assert gaze.std() > 0


def test_a_few_steps_lower_the_loss(phase, batch, tmp_path):
    with torch.no_grad():
        before = phase(**batch)[0].item()
    quick = LoopRecipe(
        steps=5, learning_rate=3e-3, warmup_steps=0, optimizer="muon", mixed_precision="no",
        save_every=20, is_on_cpu=True,
    )  # fmt: skip
    fit(phase, lambda rng: batch, quick, tmp_path / "llava")
    with torch.no_grad():
        assert phase(**batch)[0].item() < 0.8 * before
