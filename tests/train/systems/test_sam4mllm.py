from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saymask.calibration.samples import read_samples
from saymask.export.models.llava_llama import LLAVA_SPECS, LlavaLlama
from saymask.export.models.sam4mllm import SAM4MLLM_SPECS, Sam4mllm
from saymask.runtime.errors import UnknownNameError
from saymask.train.loop import LoopRecipe
from saymask.train.systems import sam4mllm, system_module
from saymask.train.systems.sam4mllm import Sam4mllmRecipe, train
from saymask.train.tune_llava import MINIATURE, PAPER, RELEASED

LOOPS = ("sam", "decoder", "tower", "llava")


@pytest.fixture(scope="module")
def brief() -> Sam4mllmRecipe:
    """Two steps of each phase on a few scenes, uncompiled and in FP32 on the CPU."""
    small = sam4mllm.scaled(sam4mllm.RECIPES["miniature"], 0.001)

    def cut(loop: LoopRecipe) -> LoopRecipe:
        return replace(loop, steps=2, warmup_steps=0, mixed_precision="no", is_on_cpu=True)

    return replace(
        small,
        scenes=replace(small.scenes, scenes=32, frame_hw=(120, 160)),
        sayings=2,
        sam_images=2,
        sam_prompts=2,
        decoder_images=2,
        tower_images=2,
        llava_images=2,
        llava_tokens=160,
        groups=replace(small.groups, scenes=8, tried=6, kept=2),
        tuning=replace(small.tuning, loop=cut(small.tuning.loop), images=2, tokens=400),
        is_compiled=False,
        **{name: cut(getattr(small, name)) for name in LOOPS},
    )


@pytest.fixture(scope="module")
def in_groups(brief) -> Sam4mllmRecipe:
    """The same for the variant PPG."""
    talk = sam4mllm.RECIPES["miniature-ppg"].tuning.conversations
    return replace(brief, tuning=replace(brief.tuning, conversations=talk))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, brief, few_samples) -> Path:
    """Folder of a finished training; read it, don't change it."""
    folder = tmp_path_factory.mktemp("sam4mllm") / "run"
    assert train(brief, folder) == folder / "checkpoint-pqpp"
    return folder


@pytest.fixture(scope="module")
def weights(trained) -> dict[str, torch.Tensor]:
    return load_file(trained / "checkpoint-pqpp" / "model.safetensors")


def state(folder: Path, *names: str) -> dict[str, torch.Tensor]:
    return torch.load(folder.joinpath(*names, "state.pt"), weights_only=True)["phase"]


def test_the_system_is_in_the_table():
    assert system_module("sam4mllm") is sam4mllm


def test_a_share_of_the_recipe_is_shorter_and_otherwise_the_same():
    full = Sam4mllmRecipe()
    assert sam4mllm.scaled(full, 1) == next(iter(sam4mllm.RECIPES.values())) == full
    tenth = sam4mllm.scaled(full, 0.1)
    assert tenth.scenes.scenes * 10 == full.scenes.scenes
    for name in LOOPS:
        assert getattr(tenth, name) == getattr(full, name).scaled(0.1)
    assert tenth.tuning == replace(full.tuning, loop=full.tuning.loop.scaled(0.1))


def test_recipes_differ_in_their_tuning_alone():
    for name, recipe in sam4mllm.RECIPES.items():
        assert replace(recipe, tuning=MINIATURE) == Sam4mllmRecipe()
        form = recipe.tuning.conversations.protocol.variant
        assert form == ("ppg" if name.endswith("-ppg") else "pqpp")
    assert sam4mllm.RECIPES["paper"].tuning == PAPER
    assert sam4mllm.RECIPES["released"].tuning == RELEASED


def test_an_unknown_variant_is_named_before_anything_is_made(tmp_path, brief):
    with pytest.raises(UnknownNameError, match="variant of sam4mllm must be .*; got 'giant'"):
        train(replace(brief, variant="giant"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_is_whole(trained, weights):
    spec = SAM4MLLM_SPECS["mini"]
    wanted = Sam4mllm(spec).state_dict() | LlavaLlama(LLAVA_SPECS["mini"]).tensors()
    del wanted["lm_head.weight"]  # It is tied.
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in wanted.items()
    }
    checkpoint = trained / "checkpoint-pqpp"
    tokenizer = (trained / "tokenizer.json").read_bytes()
    assert (checkpoint / "tokenizer.json").read_bytes() == tokenizer
    assert {task for one in read_samples(checkpoint / "samples") for task in one.tasks} == {
        "single", "part",
    }  # fmt: skip


def test_the_checkpoint_holds_what_each_phase_learned(trained, weights):
    """SAM's decoder as it was tuned, its encoder as it was, the LLaVA with its adapters."""
    points, tuned = state(trained, "sam", "points"), state(trained, "sam", "decoder")
    llava = state(trained, "llava")

    def near(name: str, value: torch.Tensor) -> bool:
        return torch.allclose(weights[name].float(), value, rtol=1e-3, atol=1e-5)

    decoder = "mask_decoder.mask_tokens.weight"
    assert near(f"visual_model.{decoder}", tuned[f"prompts.{decoder}"])
    assert not torch.equal(tuned[f"prompts.{decoder}"], points[f"visual_model.{decoder}"])
    encoder = "image_encoder.norm.weight"
    assert near(f"visual_model.{encoder}", points[f"visual_model.{encoder}"])
    table = "model.embed_tokens.weight"
    assert near(table, llava[f"network.language.{table}"])
    query = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(weights[query], llava[f"network.language.{query}"].half())


def test_the_other_variant_shares_all_but_its_adapters(trained, in_groups, weights, few_samples):
    times = {path: path.stat().st_mtime_ns for path in trained.rglob("state.pt")}
    assert train(in_groups, trained) == trained / "checkpoint-ppg"
    assert all(path.stat().st_mtime_ns == times[path] for path in times)
    others = load_file(trained / "checkpoint-ppg" / "model.safetensors")
    changed = {name for name in weights if not torch.equal(weights[name], others[name])}
    assert changed
    assert all("_proj." in name or "mm_projector" in name for name in changed)


def test_a_decoder_may_stay_off_the_shelf(trained, brief, few_samples, weights):
    untouched = replace(brief, decoder=replace(brief.decoder, steps=0))
    checkpoint = train(untouched, trained)
    found = load_file(checkpoint / "model.safetensors")
    points = state(trained, "sam", "points")
    name = "visual_model.mask_decoder.mask_tokens.weight"
    torch.testing.assert_close(found[name].float(), points[name], rtol=1e-3, atol=1e-5)
    table = "model.embed_tokens.weight"
    assert torch.equal(found[table], weights[table])
