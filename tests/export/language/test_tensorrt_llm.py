"""ModelOpt quantizes a language model in an environment of its own; what it writes is looked at.

The tests of ModelOpt itself take that environment; the lines that make it are `COMMANDS`.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saymask.export.language.tensorrt_llm import COMMANDS, Loss, quantize_language
from saymask.runtime.errors import (
    CheckpointError,
    EngineError,
    MissingExtraError,
    UnknownNameError,
    UsageError,
)
from saymask.runtime.language.quantized_folder import ALGORITHMS, check_quantized_folder

from ...runtime.language import quantized_folders
from ...runtime.language.quantized_folders import BLOCK, LINEARS, VOCABULARY, WIDTH, config
from .quantized_reference import Network

TEXTS = [[[1, 2, 3], np.zeros((2, WIDTH), np.float32), [4]]]
NORMS = {"self_attn.o_proj": None, "mlp.down_proj": None} | {
    f"self_attn.{name}_proj": "input_layernorm" for name in "qkv"
}
"""Layer -> the norm that AWQ changes with it; the others have the second."""

WEIGHT_ERRORS = {"int4-awq": (0.09, 0.14), "fp8": (0.02, 0.03), "int8-sq": (0.005, 0.02)}
LOGIT_ERRORS = {"int4-awq": (0.05, 0.4), "fp8": (0.02, 0.12), "int8-sq": (0.005, 0.08)}
"""Least and most root mean square, relative: 4 bits in groups of 128 normal weights lose 0.11 of
a weight, 3 bits of mantissa 0.026, and 8 bits a channel 0.007 before they are smoothed."""


@pytest.fixture
def source(tmp_path) -> Path:
    """Folder of a language model whose weights are normal."""
    return _source(tmp_path / "source", "LlamaForCausalLM")


@pytest.fixture
def answer(tmp_path):
    """Makes an executable that returns a quantized folder whatever it is given."""

    def answer(folder: Path) -> Path:
        path = tmp_path / "python"
        loss = '{"before": 8.0, "after": 9.5, "agreement": 0.75}'
        path.write_text(
            f'#!/bin/sh\ncp {shlex.quote(str(folder))}/* "$5"\necho \'{loss}\' > "$4/loss.json"\n'
        )
        path.chmod(0o755)
        return path

    return answer


def _source(folder: Path, architecture: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(architecture)))
    (folder / "tokenizer.json").write_text('{"is": "ours"}')
    (folder / "special_tokens_map.json").write_text("{}")
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return (torch.randn(shape, generator=draw) * scale).half()

    tensors = {
        "model.embed_tokens.weight": normal(VOCABULARY, WIDTH, scale=1),
        "lm_head.weight": normal(VOCABULARY, WIDTH, scale=0.06),
        "model.norm.weight": 1 + normal(WIDTH, scale=0.1),
        f"{BLOCK}.input_layernorm.weight": 1 + normal(WIDTH, scale=0.1),
        f"{BLOCK}.post_attention_layernorm.weight": 1 + normal(WIDTH, scale=0.1),
    }
    for name, shape in LINEARS.items():
        tensors[f"{BLOCK}.{name}.weight"] = normal(*shape, scale=0.06)
        if architecture.startswith("Qwen2") and name[-6:] in ("q_proj", "k_proj", "v_proj"):
            tensors[f"{BLOCK}.{name}.bias"] = normal(shape[0], scale=0.1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _texts(count: int) -> list[list[np.ndarray]]:
    """Draw texts in three parts, the middle one of vectors."""
    rng = np.random.default_rng(0)
    return [
        [
            rng.integers(VOCABULARY, size=20),
            rng.standard_normal((24, WIDTH)).astype(np.float32),
            rng.integers(VOCABULARY, size=20),
        ]
        for _ in range(count)
    ]


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


def _perplexity(network: Network, original: Network, texts: list[list[np.ndarray]]) -> float:
    """Among how many tokens the network is unsure what comes; vectors are not asked for."""
    logs = []
    for first, seen, last in texts:
        table = original.floats("model.embed_tokens.weight")
        logits = network.logits(np.concatenate([table[first], seen, table[last]]))
        scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        for start, ids in ((0, first[1:]), (len(first) + len(seen) - 1, last)):
            logs.append(scores[start + np.arange(len(ids)), ids])
    return float(np.exp(-np.concatenate(logs).mean()))


def _effective_weight(network: Network, original: Network, layer: str) -> np.ndarray:
    """Weights as they multiply the input of the original's layer."""
    weight = network.weight(f"{BLOCK}.{layer}")
    smoothing = network.floats(f"{BLOCK}.{layer}.pre_quant_scale")
    norm = NORMS.get(layer, "post_attention_layernorm")
    if smoothing is not None:
        return weight * smoothing
    if norm is None:
        return weight
    name = f"{BLOCK}.{norm}.weight"
    return weight * network.floats(name) / original.floats(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "architecture"),
    [
        ("int4-awq", "LlamaForCausalLM"),
        ("fp8", "LlamaForCausalLM"),
        ("int8-sq", "Qwen2ForCausalLM"),
    ],
)
def test_modelopt_writes_what_the_format_promises(
    modelopt_python, tmp_path, precision, architecture
):
    source, target = _source(tmp_path / "source", architecture), tmp_path / "target"
    texts = _texts(8)
    loss = quantize_language(source, target, texts, precision=precision, python=modelopt_python)
    assert check_quantized_folder(target) == []
    written = json.loads((target / "config.json").read_text())
    assert written.pop("quantization_config")["quant_algo"] == ALGORITHMS[precision]
    assert written == {**config(architecture), "torch_dtype": "float16"}
    assert (target / "tokenizer.json").read_text() == '{"is": "ours"}'
    assert (target / "special_tokens_map.json").is_file()
    network, original = Network(target), Network(source)
    least, most = WEIGHT_ERRORS[precision]
    for layer in LINEARS:
        wanted = original.weight(f"{BLOCK}.{layer}")
        assert least < _error(_effective_weight(network, original, layer), wanted) < most
    vectors = original.floats("model.embed_tokens.weight")[_texts(9)[8][0]]
    least, most = LOGIT_ERRORS[precision]
    assert least < _error(network.logits(vectors), original.logits(vectors)) < most
    before, after = (_perplexity(each, original, texts) for each in (original, network))
    assert loss.before == pytest.approx(before, rel=5e-3)
    assert loss.after == pytest.approx(after, rel=5e-3)
    assert loss.after != loss.before
    assert 0.5 < loss.agreement <= 1


@pytest.mark.parametrize("precision", ALGORITHMS)
def test_what_fits_is_kept(source, answer, tmp_path, precision):
    python = answer(quantized_folders.write(tmp_path / "theirs", precision))
    lines: list[str] = []
    target = tmp_path / "target"
    loss = quantize_language(
        source, target, TEXTS, precision=precision, python=python, say=lines.append
    )
    assert loss == Loss(before=8.0, after=9.5, agreement=0.75)
    assert lines == [f"modelopt quantizes the language model to {precision} over 1 texts"]
    assert check_quantized_folder(target) == []
    assert json.loads((target / "config.json").read_text())["torch_dtype"] == "float16"
    assert (target / "tokenizer.json").read_text() == '{"is": "ours"}'
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "python",
        "source",
        "target",
        "theirs",
    ]


def test_what_does_not_fit_is_not_kept(source, answer, tmp_path):
    theirs = quantized_folders.write(tmp_path / "theirs", "fp8")
    quantized_folders.change(theirs, **{f"{BLOCK}.mlp.up_proj.weight_scale": None})
    with pytest.raises(
        EngineError, match="1 things are not so: .*up_proj.weight_scale must be F32"
    ):
        quantize_language(source, tmp_path / "out", TEXTS, precision="fp8", python=answer(theirs))
    assert not (tmp_path / "out").exists()


def test_an_interpreter_without_modelopt(source, tmp_path):
    with pytest.raises(MissingExtraError, match="No module named 'modelopt") as caught:
        quantize_language(
            source, tmp_path / "out", TEXTS, precision="fp8", python=Path(sys.executable)
        )
    assert all(line in str(caught.value) for line in COMMANDS)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "must see texts, .* got 0 texts"),
        ([[]], "must see texts, each with a token at its end"),
        ([[[1]]], "and something before that; got 1 texts"),
        ([[[1], np.zeros((2, WIDTH), np.float32)]], "must see texts, each with a token at its end"),
        ([[[VOCABULARY]]], r"ids below 96 or vectors \(n, 256\); got int64 \(1,\)"),
        ([[[-1]]], "ids below 96"),
        ([[np.zeros((2, 8))]], r"got float64 \(2, 8\)"),
        ([[["word"]]], "take this model's tokenizer"),
    ],
)
def test_texts_without_sense(source, tmp_path, texts, said):
    with pytest.raises(UsageError, match=said):
        quantize_language(source, tmp_path / "out", texts, precision="fp8", python=Path("none"))


def test_a_precision_that_is_none(source, tmp_path):
    with pytest.raises(UnknownNameError, match="one of fp8, int4-awq, int8-sq; got 'int8'"):
        quantize_language(source, tmp_path / "out", TEXTS, precision="int8", python=Path("none"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "it is of LlavaLlamaForCausalLM"),
        (
            {"intermediate_size": 320},
            "multiples of 64 outputs and 128 inputs; 1 have not, the first",
        ),
    ],
)
def test_a_network_that_cannot_be_written(source, tmp_path, changes, said):
    (source / "config.json").write_text(json.dumps(config(**changes)))
    with pytest.raises(CheckpointError, match=said):
        quantize_language(
            source, tmp_path / "out", TEXTS, precision="int4-awq", python=Path("none")
        )


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_source_that_lacks_a_file(source, tmp_path, name):
    (source / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        quantize_language(source, tmp_path / "out", TEXTS, precision="fp8", python=Path("none"))
