from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saymask.export.language.adapter import open_adapter
from saymask.runtime.errors import CheckpointError

from .checkpoints import llama_config, random_weights, write_adapter

UP, Q = "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"
WEIGHTS = random_weights(llama_config())
SHAPES = {name: tuple(tensor.shape) for name, tensor in WEIGHTS.items()}


def _write(folder: Path, **changes: Any) -> Path:
    return write_adapter(folder / "adapter", WEIGHTS, modules=(UP, Q), **changes)


def _product(folder: Path, module: str) -> torch.Tensor:
    stored = load_file(folder / "adapter_model.safetensors")
    key = f"base_model.model.{module}.lora"
    return stored[f"{key}_B.weight"] @ stored[f"{key}_A.weight"]


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"fan_in_fan_out": True}, 2.0),
        ({"alpha_pattern": {"up_proj": 4}}, 1.0),
        ({"r": 16, "rank_pattern": {"up_proj": 4, r"layers\.1\.self_attn\.q_proj": 4}}, 2.0),
    ],
)
def test_a_weight_gets_the_product_times_its_scale(
    tmp_path: Path, changes: dict[str, Any], scale: float
) -> None:
    folder = _write(tmp_path, **changes)
    adapter = open_adapter(folder)
    adapter.check(SHAPES)
    weight = WEIGHTS[f"{UP}.weight"]
    expected = weight + scale * _product(folder, UP)
    torch.testing.assert_close(adapter.merged(f"{UP}.weight", weight), expected)
    assert adapter.merged("lm_head.weight", weight) is weight


def test_half_weights_are_added_to_in_float32(tmp_path: Path) -> None:
    weight = WEIGHTS[f"{UP}.weight"].half()
    merged = open_adapter(_write(tmp_path)).merged(f"{UP}.weight", weight)
    expected = weight.float() + 2 * _product(tmp_path / "adapter", UP)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged, expected)


def test_a_whole_tensor_takes_the_place_of_a_weight(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    path = folder / "adapter_model.safetensors"
    head = torch.randn(400, 64)
    save_file(load_file(path) | {"base_model.model.lm_head.weight": head}, path)
    adapter = open_adapter(folder)
    adapter.check(SHAPES)
    assert torch.equal(adapter.merged("lm_head.weight", torch.zeros(400, 64)), head)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    adapter = open_adapter(_write(tmp_path))
    other = SHAPES | {f"{UP}.weight": (128, 64)}
    del other[f"{Q}.weight"]
    with pytest.raises(CheckpointError, match=r"2 of 2 do not.*\(128, 64\).*none"):
        adapter.check(other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"r": 8}, r"ranks \(4, 4\), not 8"),
        ({"lora_alpha": None}, "TypeError"),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        open_adapter(_write(tmp_path, **changes))


@pytest.mark.parametrize(
    "key", ["model.x.lora_A.weight", f"base_model.model.{UP}.lora_magnitude_vector"]
)
def test_unknown_keys_are_listed(tmp_path: Path, key: str) -> None:
    folder = _write(tmp_path)
    path = folder / "adapter_model.safetensors"
    stored = load_file(path)
    del stored[f"base_model.model.{Q}.lora_B.weight"]
    save_file(stored | {key: torch.ones(1)}, path)
    with pytest.raises(CheckpointError) as error:
        open_adapter(folder)
    assert f"{Q} without its other half" in str(error.value)
    assert key.removeprefix("base_model.model.").split(".lora")[0] in str(error.value)


@pytest.mark.parametrize(
    "base",
    [
        None, "", "lmms-lab/LLaMA3-LLaVA", "/models/llama3-llava/", "C:\\models\\llama3-llava",
        "lmms-lab/first-name",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", ["llama3-llava", "hub/models--lmms-lab--llama3-llava/snapshots/0c1e57"]
)
def test_a_base_by_one_of_its_names(tmp_path: Path, base: str | None, place: str) -> None:
    adapter = open_adapter(_write(tmp_path, base_model_name_or_path=base))
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "config.json").write_text('{"_name_or_path": "their/first-name"}')
    assert adapter.base == (base or "")
    assert adapter.doubt(tmp_path / place) == ""


@pytest.mark.parametrize("config", [None, "{", "[]", '{"_name_or_path": 7}'])
def test_a_base_by_another_name(tmp_path: Path, config: str | None) -> None:
    adapter = open_adapter(_write(tmp_path, base_model_name_or_path="meta/Llama-3-8B"))
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    doubt = adapter.doubt(tmp_path)
    assert f"was trained on 'meta/Llama-3-8B', and is merged into '{tmp_path.name}';" in doubt
    assert "\n" not in doubt


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_both_files_are_needed(tmp_path: Path, name: str) -> None:
    folder = _write(tmp_path)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match="an adapter is a folder"):
        open_adapter(folder)


def test_old_keys_name_the_adapter(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    path = folder / "adapter_model.safetensors"
    stored = {
        key.replace("_A.", "_A.default.").replace("_B.", "_B.default."): tensor
        for key, tensor in load_file(path).items()
    }
    save_file(stored, path)
    assert open_adapter(folder).deltas.keys() == {f"{UP}.weight", f"{Q}.weight"}
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
