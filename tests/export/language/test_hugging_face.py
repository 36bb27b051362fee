"""A plain folder is what transformers loads, and it computes what the checkpoint did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saymask.export.language.hugging_face import write_folder
from saymask.export.language.layout import layout_from_spec, read_layout
from saymask.export.language.names import targets
from saymask.export.models.llama import Llama, LlamaSpec, causal_mask
from saymask.export.weights import find_weight_files, map_tensors
from saymask.runtime.errors import CheckpointError, UnknownNameError
from saymask.runtime.language.quantized_folder import LanguageSizes

from . import checkpoints
from .checkpoints import (
    LLAMA_31,
    byte_pair_tokenizer,
    largest_difference,
    llama_config,
    random_weights,
    write_adapter,
)

CHANGES = {
    "vicuna": {},
    "vicuna-16k": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama-3.1": {"rope_theta": 5e5, "rope_scaling": LLAMA_31},
    "rope-parameters": {"rope_parameters": {"rope_theta": 5e5, **LLAMA_31}},
    "wide-heads": {"head_dim": 32},
    "tied": {"tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1e6},
}
IDS = np.random.default_rng(0).integers(3, 380, 100)
Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"


def _llava(folder: Path, weights: dict[str, torch.Tensor], **changes: Any) -> Path:
    """Write a checkpoint as LLaVA's are, eyes and language model in one file."""
    eyes = {
        "model.vision_tower.vision_tower.vision_model.post_layernorm.weight": torch.ones(3),
        "model.mm_projector.0.weight": torch.ones(3, 3),
        "model.image_newline": torch.ones(3),
    }
    tokenizer = byte_pair_tokenizer("llama-bpe")
    return checkpoints.write_folder(
        folder, weights={**weights, **eyes}, tokenizer=tokenizer, **changes
    )


def _logits(folder: Path) -> np.ndarray:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return model(torch.tensor(IDS)[None]).logits[0].numpy()


@pytest.mark.parametrize("name", CHANGES)
def test_transformers_computes_the_same(tmp_path: Path, name: str) -> None:
    changes = CHANGES[name]
    weights = random_weights(llama_config(**changes))
    plain = checkpoints.write_folder(tmp_path / "plain", weights=weights, **changes)
    kind = {"model_type": "llava_qwen" if name == "qwen2" else "llava_llama"}
    seeing = _llava(tmp_path / "seeing", weights, **changes | kind)
    write_folder(seeing, tmp_path / "out", format="F32")
    assert largest_difference(_logits(tmp_path / "out"), _logits(plain)) <= 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    wanted = "Qwen2ForCausalLM" if name == "qwen2" else "LlamaForCausalLM"
    assert config["architectures"] == [wanted]
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    LanguageSizes.of_config(config)
    assert targets(read_layout(tmp_path / "out")) == targets(read_layout(plain))


def test_a_network_of_ours_has_no_config_of_transformers(tmp_path: Path) -> None:
    spec = LlamaSpec(
        width=64, layers=2, heads=4, key_heads=2, mlp_width=96, vocabulary=400, rope_theta=5e5,
        norm_epsilon=1e-5, max_positions=512, is_tied=True,
    )  # fmt: skip
    torch.manual_seed(0)
    network = Llama(spec).eval()
    weights = network.state_dict()
    del weights["lm_head.weight"]
    folder = _llava(tmp_path / "ours", weights)
    (folder / "config.json").write_text('{"system": "sam4mllm", "variant": "mini"}')
    write_folder(folder, tmp_path / "out", layout=layout_from_spec(spec), format="F32")
    with torch.no_grad():
        vectors = network.model.embed_tokens(torch.tensor(IDS)[None])
        wanted = network(vectors, torch.arange(len(IDS))[None], causal_mask(len(IDS)))
    assert largest_difference(_logits(tmp_path / "out"), wanted[0]) <= 1e-5


def test_an_adapter_is_merged_before_anything_is_rounded(tmp_path: Path) -> None:
    weights = random_weights(llama_config())
    folder = _llava(tmp_path / "model", weights)
    adapter = write_adapter(tmp_path / "adapter", weights, modules=(Q, UP))
    pairs = load_file(adapter / "adapter_model.safetensors")
    for module in (Q, UP):
        up, down = (pairs[f"base_model.model.{module}.lora_{side}.weight"] for side in "BA")
        weights[f"{module}.weight"] = weights[f"{module}.weight"] + up @ down * 2
    merged = checkpoints.write_folder(tmp_path / "merged", weights=weights)
    write_folder(folder, tmp_path / "out", adapter=adapter, format="F32")
    assert largest_difference(_logits(tmp_path / "out"), _logits(merged)) <= 1e-5
    write_folder(folder, tmp_path / "out", adapter=adapter)
    stored = dict(map_tensors(find_weight_files(tmp_path / "out")))
    torch.testing.assert_close(
        stored[f"{Q}.weight"], weights[f"{Q}.weight"].half(), rtol=1e-3, atol=1e-6
    )


def test_each_block_is_a_file_and_the_tokenizers_files_are_copied(tmp_path: Path) -> None:
    weights = random_weights(llama_config())
    folder = _llava(tmp_path / "model", weights)
    write_folder(folder, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        *(f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)),
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    stored = dict(map_tensors(find_weight_files(tmp_path / "out")))
    assert set(stored) == set(weights)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    weights = random_weights(llama_config())
    weights[f"{UP}.weight"][0, 0] = 1e6
    folder = _llava(tmp_path / "model", weights)
    with pytest.raises(CheckpointError, match=r"finite as torch.float16; some of .*up_proj.weight"):
        write_folder(folder, tmp_path / "out")
    with pytest.raises(UnknownNameError, match="format must be one of BF16, F16, F32; got 'Q4_0'"):
        write_folder(folder, tmp_path / "out", format="Q4_0")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer.model or tokenizer.json"):
        write_folder(folder, tmp_path / "out", format="F32")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
