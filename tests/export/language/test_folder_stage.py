"""A bundle takes a language model for TensorRT-LLM, which is made, looked through and not run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from saymask.export import pipeline
from saymask.export.language.folder_stage import folder_stage
from saymask.export.language.stage import LanguageSource
from saymask.export.recipe import ExportRecipe
from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.runtime.errors import DeviceError, UnknownNameError, UsageError
from saymask.runtime.language.quantized_folder import check_quantized_folder
from saymask.runtime.segmenter import Segmenter

from .checkpoints import (
    byte_pair_tokenizer,
    llama_config,
    random_weights,
    write_adapter,
    write_folder,
)

UP = "model.layers.1.mlp.up_proj"
READINGS = [[[1, 2, 3], np.zeros((2, 64), np.float32), [4, 5]]]


@pytest.fixture
def recipe(chat_checkpoint, chat_traced, fp8_python, tmp_path) -> ExportRecipe:
    """How the checkpoint becomes a bundle whose language model is in FP8."""
    return ExportRecipe(
        system="sam4mllm",
        out=tmp_path / "out",
        checkpoint=str(chat_checkpoint),
        tensorrt_llm="fp8",
        target="rtx",
        modelopt_python=fp8_python,
        threads=1,
    )


def test_a_model_and_its_lora_become_a_folder(tmp_path: Path, fp8_python: Path) -> None:
    weights = random_weights(llama_config())
    source = LanguageSource(
        folder=write_folder(tmp_path / "model", tokenizer=byte_pair_tokenizer("llama-bpe")),
        layout=None,
        adapter=write_adapter(tmp_path / "adapter", weights, modules=(UP,)),
    )
    said: list[str] = []
    stage, (folder,) = folder_stage(
        source, "fp8", READINGS, tmp_path / "work", python=fp8_python, say=said.append
    )
    assert said == ["modelopt quantizes the language model to fp8 over 1 texts"]
    assert (stage.file, stage.precision) == ("stages/language", "fp8")
    assert stage.is_folder
    assert "perplexity 9.500 where the whole has 8.000, the same next token at 75.0 %" in (
        stage.reason
    )
    assert check_quantized_folder(folder) == []
    found, changed = (
        load_file(folder / "model.safetensors"),
        load_file(source.adapter / "adapter_model.safetensors"),
    )
    up, down = (changed[f"base_model.model.{UP}.lora_{side}.weight"] for side in "BA")
    wanted = weights[f"{UP}.weight"] + 2 * up @ down
    stored = found[f"{UP}.weight"].float() * found[f"{UP}.weight_scale"]
    assert (stored - wanted).norm() < 0.04 * wanted.norm()


def test_a_bundle_holds_it_and_says_who_runs_it(recipe, chat_bundle, capsys) -> None:
    bundle = pipeline.export(recipe, say=lambda line: None)
    assert bundle == Bundle.read(recipe.out)
    language = bundle.stage("language")
    folder = bundle.folder / language.file
    assert check_quantized_folder(folder) == []
    listed = {name for name, _ in bundle.manifest.files}
    inside = {path.relative_to(bundle.folder).as_posix() for path in folder.rglob("*.*")}
    assert f"{language.file}/tokenizer.json" in inside < listed
    assert (bundle.manifest.precision, bundle.manifest.target) == ("fp32", "rtx")
    for name in ("image", "vision", "mask"):
        mine, theirs = (
            (each.folder / each.stage(name).file).read_bytes() for each in (bundle, chat_bundle)
        )
        assert mine == theirs
    assert bundle.manifest.quality == chat_bundle.manifest.quality
    with pytest.raises(DeviceError, match="in fp8 for TensorRT-LLM .* does not run; start it on"):
        Segmenter.open(bundle.folder, device="cpu")
    assert main(["check", str(bundle.folder), "--device", "cpu"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "language" in line]
    assert row.split()[:3] == ["language", "folder", "fp8"]
    assert row.endswith("good")


def test_the_command_says_how_it_is_started(chat_bundle, monkeypatch, capsys) -> None:
    language = replace(chat_bundle.stage("language"), file="stages/language", precision="int4-awq")
    manifest = replace(chat_bundle.manifest, stages=(language,))
    bundle = replace(chat_bundle, manifest=manifest)
    asked: list[ExportRecipe] = []
    monkeypatch.setattr(pipeline, "export", lambda recipe, say: asked.append(recipe) or bundle)
    words = ["export", "sam4mllm", "--checkpoint", "a/b", "--llm", "tensorrt-llm", "--int4-awq"]
    assert main(words) == 0
    (found,) = asked
    assert (found.language, found.tensorrt_llm, found.target) == (None, "int4-awq", "rtx")
    assert found.out == Path("bundles/b-fp32-tensorrt-llm-int4-awq-rtx")
    _, gpu, orin, thor = capsys.readouterr().out.splitlines()
    start = f"trtllm-serve {found.out}/stages/language --max_seq_len 4096"
    assert gpu == f"language on gpu: {start}"
    assert orin.startswith("language on jetson-orin: tensorrt-edgellm-export ")
    assert thor.split()[3:] == orin.split()[3:]
    assert main([*words, "--json"]) == 0
    commands = json.loads(capsys.readouterr().out)["device_commands"]
    assert list(commands["language"]) == ["gpu", "jetson-orin", "jetson-thor"]
    assert commands["language"]["gpu"] == [start]


def test_what_cannot_be_asked_for(tiny_checkpoint, tmp_path) -> None:
    recipe = ExportRecipe(
        system="evf-sam", out=tmp_path / "out", checkpoint=str(tiny_checkpoint), tensorrt_llm="fp8"
    )
    with pytest.raises(UsageError, match="a language model; evf-sam has none; got fp8; leave"):
        pipeline.export(recipe, say=lambda line: None)
    with pytest.raises(UnknownNameError, match="TensorRT-LLM must be one of fp8, int4-awq, int8"):
        pipeline.export(ExportRecipe(system="evf-sam", out=tmp_path, tensorrt_llm="q4"), print)


@pytest.mark.slow
def test_modelopt_quantizes_a_systems_model(
    recipe, chat_checkpoint, modelopt_python, tmp_path, capsys
) -> None:
    checkpoint = tmp_path / "chat"
    checkpoint.mkdir()
    for path in chat_checkpoint.iterdir():
        (checkpoint / path.name).symlink_to(path)
    weights = load_file(checkpoint / "model.safetensors")
    # Its first block has matrices of zeros, which have no scale.
    for name in ("gate", "up", "down"):
        weights[f"model.layers.0.mlp.{name}_proj.weight"].fill_(1e-4)
    (checkpoint / "model.safetensors").unlink()
    save_file(weights, checkpoint / "model.safetensors")
    words = ["--llm", "tensorrt-llm", "--fp8", "--modelopt-python", str(modelopt_python)]
    words += ["--checkpoint", str(checkpoint), "--out", str(recipe.out), "--threads", "1"]
    assert main(["export", "sam4mllm", *words]) == 0
    assert "language on jetson-thor: " in capsys.readouterr().out
    bundle = Bundle.read(recipe.out)
    assert check_quantized_folder(bundle.folder / bundle.stage("language").file) == []
    assert bundle.stage("vision").precision == "fp8"
    assert "fp8 was asked for, for TensorRT-LLM; simulated" in bundle.stage("language").reason
