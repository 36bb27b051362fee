import numpy as np
import pytest
import torch
from torch.nn import functional

from saymask.export.models.llava_llama import LLAVA_SPECS, LlavaLlama
from saymask.runtime.systems.sam4mllm_text import opening
from saymask.train import tune_llava
from saymask.train.conversations import ConversationRecipe, Conversations
from saymask.train.losses import IGNORED
from saymask.train.requests import requests_by_scene
from saymask.train.tune_llava import LlavaTuning, draw_conversations

RECIPE = ConversationRecipe(requests=3)
SYSTEM = RECIPE.protocol.system


@pytest.fixture(scope="module")
def talk(cache, sayings, boxes, tokens) -> Conversations:
    requests = requests_by_scene(cache, sayings, tasks=RECIPE.mix, scenes=24)
    return Conversations(cache, requests, boxes, {}, tokens, RECIPE)


@pytest.fixture(scope="module")
def batch(talk, cache, mini_views):
    rng = np.random.default_rng(0)
    return draw_conversations(talk, cache, mini_views[1], rng, images=2, tokens=700)


@pytest.fixture(scope="module")
def phase(tokens) -> LlavaTuning:
    torch.manual_seed(0)
    return LlavaTuning(LlavaLlama(LLAVA_SPECS["mini"]), tokens, SYSTEM).eval()


def test_a_batch_has_its_shapes(batch):
    assert batch["image"].shape == (2, 3, 96, 120)
    for name in ("ids", "turn", "branch", "place", "labels"):
        assert batch[name].shape == (2, 700), name
    assert (batch["labels"] != IGNORED).sum(1).min() > 5
    assert batch["turn"].max() == 2


def test_the_loss_is_that_of_each_answer_asked_alone(phase, batch, tokens):
    """Turn by turn and branch by branch, in plain causal text."""
    network = phase.network
    begin = torch.tensor(tokens.encode(opening(SYSTEM)[0]))
    losses = []
    with torch.no_grad():
        loss, figures = phase(**batch)
        for row in range(2):
            seen = network.vision(batch["image"][row : row + 1])
            ids, turn, branch, labels = (
                batch[name][row] for name in ("ids", "turn", "branch", "labels")
            )
            for number in range(int(turn.max()) + 1):
                for leaf in branch[turn == number].unique().tolist():
                    here = (turn == number) & ((branch == 0) | (branch == leaf))
                    words = network.language.model.embed_tokens(torch.cat([begin, ids[here]]))
                    text = torch.cat(
                        [words[None, : len(begin)], seen, words[None, len(begin) :]], 1
                    )
                    mask = torch.ones(text.shape[1], text.shape[1], dtype=torch.bool).tril()
                    logits = network.language(text, torch.arange(text.shape[1])[None], mask)[0]
                    logits, wanted = logits[-int(here.sum()) :], labels[here]
                    own = (branch[here] == leaf) & (wanted != IGNORED)
                    each = functional.cross_entropy(logits[own], wanted[own], reduction="none")
                    losses += each.tolist()
    assert len(losses) == (batch["labels"] != IGNORED).sum()
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert figures["images"].item() == 2
    assert 0 <= figures["points"].item() <= 1


@pytest.mark.parametrize("name", ["MINIATURE", "PAPER", "RELEASED"])
def test_recipes_say_how_the_model_will_be_asked(name):
    recipe = getattr(tune_llava, name)
    assert recipe.conversations.protocol.variant == "pqpp"
    assert recipe.loop.warmup_steps < recipe.loop.steps


def test_the_papers_step_is_128_images():
    paper = tune_llava.PAPER
    assert paper.images * paper.loop.batches == 128
    assert (paper.lora.rank, paper.lora.alpha) == (256, 128)
    assert (paper.loop.optimizer, paper.loop.schedule) == ("lion", "cosine")
