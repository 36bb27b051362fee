"""A quantized folder is looked through tensor by tensor."""

from __future__ import annotations

import pytest
import torch

from saymask.runtime.errors import EngineError
from saymask.runtime.language.quantized_folder import (
    ALGORITHMS,
    LanguageSizes,
    check_quantized_folder,
    precision_of,
)

from . import quantized_folders
from .quantized_folders import BLOCK, HIDDEN, WIDTH, change, config, edit

UP = f"{BLOCK}/mlp/up_proj".replace(".", "/")
DOWN = f"{BLOCK}/mlp/down_proj".replace(".", "/")


@pytest.mark.parametrize("precision", ALGORITHMS)
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_what_fits(tmp_path, precision, architecture):
    folder = quantized_folders.write(tmp_path, precision, architecture)
    assert check_quantized_folder(folder) == []
    assert precision_of(folder) == precision


@pytest.mark.parametrize(
    ("precision", "tensors", "said"),
    [
        ("fp8", {f"{UP}/weight_scale": None}, r"up_proj.weight_scale must be F32 \(\); it is miss"),
        ("fp8", {f"{UP}/input_scale": torch.ones(1)}, r"must be F32 \(\); it is F32 \(1,\)"),
        (
            "fp8",
            {f"{UP}/weight": torch.zeros(HIDDEN, WIDTH).half()},
            "must be F8_E4M3 .* it is F16",
        ),
        (
            "fp8",
            {f"{UP}/input_scale": torch.tensor(0.0)},
            "finite and above 0; it goes from 0 to 0",
        ),
        ("int4-awq", {f"{DOWN}/pre_quant_scale": None}, "down_proj.pre_quant_scale .* missing"),
        ("int4-awq", {f"{UP}/pre_quant_scale": torch.ones(WIDTH).half()}, "belongs to no part"),
        (
            "int4-awq",
            {f"{UP}/weight_scale": torch.ones(2, HIDDEN)},
            r"F32 \(384, 2\); it is F32 \(2",
        ),
        ("int8-sq", {f"{UP}/weight_scale": torch.full((HIDDEN,), torch.nan)}, "from nan to nan"),
        (
            "int8-sq",
            {f"{UP}/pre_quant_scale": torch.ones(WIDTH)},
            r"F16 or BF16 \(256,\); it is F32",
        ),
        ("int8-sq", {"lm_head/weight": None}, "lm_head.weight .* missing"),
        ("int8-sq", {"model/layers/1/mlp/up_proj/weight": torch.ones(1)}, "layers.1.* no part"),
    ],
)
def test_a_tensor_that_does_not_fit(tmp_path, precision, tensors, said):
    folder = quantized_folders.write(tmp_path, precision)
    change(folder, **tensors)
    (misfit,) = check_quantized_folder(folder)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(misfit)


def test_a_tied_head_needs_no_tensor(tmp_path):
    folder = quantized_folders.write(tmp_path, "fp8")
    edit(folder / "config.json", tie_word_embeddings=True)
    assert check_quantized_folder(folder) == []
    change(folder, **{"lm_head/weight": None})
    assert check_quantized_folder(folder) == []


def test_a_head_that_is_quantized_too(tmp_path):
    folder = quantized_folders.write(tmp_path, "fp8")
    edit(folder / "hf_quant_config.json", exclude_modules=["*embed*"])
    misfits = check_quantized_folder(folder)
    assert [line.split()[0] for line in misfits] == [
        "lm_head.weight",
        "lm_head.weight_scale",
        "lm_head.input_scale",
    ]


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("config.json", {"quantization_config": {}}, "quant_method must be 'modelopt'; it is None"),
        ("hf_quant_config.json", {"group_size": 64}, "group_size must be 128; it is 64"),
        (
            "hf_quant_config.json",
            {"quant_algo": "NVFP4"},
            "must be one of W4A16_AWQ, FP8, .* NVFP4",
        ),
        ("hf_quant_config.json", {"kv_cache_quant_algo": "FP8"}, "algo must be None; it is 'FP8'"),
        ("config.json", {"quantization_config": 5}, "quant_algo must be 'W4A16_AWQ'; it is None"),
        ("config.json", {"intermediate_size": 320}, r"down_proj \(256, 320\) must have multiples"),
        ("config.json", {"num_hidden_layers": 2}, "layers.1.input_layernorm.weight .* missing"),
        ("config.json", {"architectures": ["LlavaLlamaForCausalLM"]}, "the language model alone"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, file, entries, said):
    folder = quantized_folders.write(tmp_path, "int4-awq")
    edit(folder / file, **entries)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError("\n".join(check_quantized_folder(folder)))


@pytest.mark.parametrize("name", ["config.json", "hf_quant_config.json", "model.safetensors"])
def test_a_file_that_is_missing(tmp_path, name):
    folder = quantized_folders.write(tmp_path, "fp8")
    (folder / name).unlink()
    (misfit,) = check_quantized_folder(folder)
    assert name in misfit


def test_a_tokenizer_is_needed(tmp_path):
    folder = quantized_folders.write(tmp_path, "fp8")
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert check_quantized_folder(folder) == []
    (folder / "tokenizer.model").unlink()
    assert check_quantized_folder(folder) == [
        "the folder must have tokenizer.json or tokenizer.model; it has none"
    ]


def test_sizes():
    sizes = LanguageSizes.of_config(config("Qwen2ForCausalLM", head_dim=32))
    assert (sizes.queries, sizes.keys, sizes.has_biases) == (128, 64, True)
    assert sizes.misaligned("fp8") == sizes.misaligned("int4-awq") == []
    small = LanguageSizes.of_config(config(intermediate_size=320))
    assert small.misaligned("int4-awq") == [f"{BLOCK}.mlp.down_proj (256, 320)"]
    with pytest.raises(EngineError, match="KeyError"):
        LanguageSizes.of_config({"architectures": ["LlamaForCausalLM"]})


def test_other_folders_have_no_precision(tmp_path):
    assert precision_of(tmp_path) is None
