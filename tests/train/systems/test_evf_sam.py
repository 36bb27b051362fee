import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from saymask.calibration.samples import read_samples
from saymask.export.checkpoint import VOCABULARY_FILE, open_checkpoint
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam
from saymask.export.systems.evf_sam import load
from saymask.runtime.errors import InputError, PromptError, UnknownNameError
from saymask.runtime.tokenizer import XlmRoberta
from saymask.train.cache import SceneCache
from saymask.train.grounding import Grounding
from saymask.train.losses import mask_bce, mask_dice
from saymask.train.systems import SYSTEMS, evf_sam, system_module
from saymask.train.systems.evf_sam import (
    MAX_TOKENS,
    EvfSamRecipe,
    EvfSamTraining,
    tokenize,
    train,
    train_joint,
)

PHASES = ("sam", "beit3", "joint")
NEVER_READ = (
    "visual_model.mask_decoder.iou_prediction_head",
    *(f"visual_model.mask_decoder.output_hypernetworks_mlps.{index}" for index in (1, 2, 3)),
)
"""Parts of the decoder that a single mask's loss does not reach."""


@pytest.fixture
def network() -> EvfSam:
    torch.manual_seed(0)
    return EvfSam(EVF_SAM_SPECS["mini"])


@pytest.fixture
def grounding(network) -> Grounding:
    return Grounding(network.mm_extractor["beit3"], is_compiled=False)


@pytest.fixture(scope="module")
def learned(trained) -> SceneCache:
    """The scenes that `trained` learned from."""
    return SceneCache(trained / "scenes")


@pytest.fixture(scope="module")
def ids(trained, learned) -> np.ndarray:
    return tokenize(XlmRoberta(trained / VOCABULARY_FILE, MAX_TOKENS), learned)


def state(folder, phase: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / phase / "state.pt", weights_only=True)["phase"]


def test_systems_are_found_by_name():
    assert system_module("evf-sam") is evf_sam
    with pytest.raises(UnknownNameError, match="must be one of evf-sam, sam4mllm; got 'sam'"):
        system_module("sam")
    assert all(hasattr(system_module(name), "train") for name in SYSTEMS)


def test_a_share_of_the_recipe_is_shorter_and_otherwise_the_same():
    full = EvfSamRecipe()
    assert evf_sam.scaled(full, 1) == next(iter(evf_sam.RECIPES.values())) == full
    tenth = evf_sam.scaled(full, 0.1)
    assert tenth.scenes.scenes * 10 == full.scenes.scenes
    for name in PHASES:
        long, short = getattr(full, name), getattr(tenth, name)
        assert (short.steps * 10, short.warmup_steps * 10) == (long.steps, long.warmup_steps)
        assert replace(short, steps=long.steps, warmup_steps=long.warmup_steps) == long
    assert evf_sam.scaled(full, 1e-6).sam.steps == 1


def test_an_unknown_variant_is_named_before_anything_is_made(tmp_path, brief_recipe):
    with pytest.raises(UnknownNameError, match="variant of evf-sam must be .*; got 'giant'"):
        train(replace(brief_recipe, variant="giant"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_loads_strictly_and_holds_what_was_learned(trained):
    checkpoint = open_checkpoint(trained / "checkpoint")
    assert (checkpoint.config.variant, checkpoint.config.max_tokens) == ("mini", 48)
    loaded = load(checkpoint).state_dict()
    joint = state(trained, "joint")
    assert loaded.keys() == {name[8:] for name in joint if name.startswith("network.")}
    for name, value in loaded.items():
        torch.testing.assert_close(value, joint[f"network.{name}"], rtol=1e-3, atol=1e-6)


def test_the_checkpoint_brings_its_vocabulary_and_samples(trained):
    checkpoint = open_checkpoint(trained / "checkpoint")
    assert checkpoint.vocabulary.read_bytes() == (trained / VOCABULARY_FILE).read_bytes()
    samples = read_samples(checkpoint.folder / "samples")
    assert {task for sample in samples for task in sample.tasks} == {"single", "part", "semantic"}


def test_a_killed_training_ends_in_the_same_weights(trained, tmp_path, brief_recipe, few_samples):
    again = tmp_path / "again"
    for name in ("scenes", "sam"):
        shutil.copytree(trained / name, again / name)
    shutil.copy(trained / VOCABULARY_FILE, again)
    (again / "beit3").mkdir()
    (again / "beit3" / "state.pt.partial").write_bytes(b"half of a state")
    train(brief_recipe, again)
    for phase in PHASES:
        first, second = state(trained, phase), state(again, phase)
        assert all(torch.equal(first[name], second[name]) for name in first), phase


def test_scenes_of_another_recipe_are_refused(trained, brief_recipe):
    more = replace(brief_recipe, scenes=replace(brief_recipe.scenes, scenes=64))
    with pytest.raises(InputError, match="delete them or give another folder"):
        train(more, trained)


def test_the_joint_phase_trains_what_evf_sam_trains(
    network, grounding, learned, ids, tmp_path, brief_recipe
):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train_joint(brief_recipe, network, grounding, learned, ids, tmp_path)
    after = network.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    frozen = {
        name
        for name in after
        if name.startswith(("visual_model.image_encoder.", "visual_model.prompt_encoder."))
        and "no_mask_embed" not in name
    }
    assert not changed & frozen
    assert "visual_model.prompt_encoder.no_mask_embed.weight" in changed
    decoder = {name for name in after if name.startswith("visual_model.mask_decoder.")}
    assert decoder - changed == {name for name in decoder if name.startswith(NEVER_READ)}
    assert {name for name in after if name.startswith("text_hidden_fcs.")} <= changed
    beit3 = {name for name in after if name.startswith("mm_extractor.beit3.encoder.layers.0.")}
    assert beit3
    assert beit3 <= changed


def test_the_joint_loss_is_the_masks_and_a_share_of_the_groundings(network, grounding):
    phase = EvfSamTraining(network, grounding, is_compiled=False).eval()
    rng = torch.Generator().manual_seed(1)
    spec = network.spec.multimodal_encoder
    patches = spec.grid_hw[0] * spec.grid_hw[1]
    grounded = {
        "cover": torch.rand(2, patches, generator=rng),
        "box_xyxy": torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0]]),
        "parts": torch.randint(0, 5, (2, patches), generator=rng),
        "colors": torch.randint(0, 5, (2, patches), generator=rng),
        "category": torch.tensor([3, 5]),
        "color": torch.tensor([-100, 2]),
    }
    batch = {
        "image_embedding": torch.randn(2, 128, 15, 20, generator=rng),
        "image": torch.randn(2, 3, *spec.image_hw, generator=rng),
        "token_ids": torch.tensor([[0, 7, 8, 2], [0, 9, 2, 1]]),
    }
    truth = torch.rand(2, 120, 160, generator=rng) > 0.8
    with torch.no_grad():
        loss, figures = phase(**batch, truth=truth, **grounded)
        low = network((batch["image_embedding"],), batch["image"], batch["token_ids"])
        alone, grounding = phase.grounding(batch["image"], batch["token_ids"], **grounded)
    logits = functional.interpolate(low, (120, 160), mode="bilinear")[:, 0]
    bce, dice = mask_bce(logits, truth.float()), mask_dice(logits, truth.float())
    by_hand = grounding | {"bce": bce, "dice": dice}
    for name, value in by_hand.items():
        assert figures[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert loss.item() == pytest.approx((bce + dice + 0.3 * alone).item(), rel=1e-4)
    assert figures["images"].item() == 2


def test_ids_are_padded_to_one_length(trained, learned, ids):
    assert ids.dtype == np.int64
    assert ids.shape == (len(learned.phrases.texts), MAX_TOKENS)
    tokenizer = XlmRoberta(trained / VOCABULARY_FILE, MAX_TOKENS)
    alone = tokenizer.ids(learned.phrases.texts[3])
    assert ids[3].tolist() == alone + [XlmRoberta.PAD] * (MAX_TOKENS - len(alone))


def test_a_phrase_that_is_too_long_is_named(trained, learned):
    with pytest.raises(PromptError, match="at most 3 tokens"):
        tokenize(XlmRoberta(trained / VOCABULARY_FILE, 3), learned)
