from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saymask.export.language.conversion import convert, convert_adapter
from saymask.export.language.layout import read_layout
from saymask.export.weights import map_tensors
from saymask.runtime.errors import CheckpointError, UnknownNameError
from saymask.runtime.language import LanguageEngine
from saymask.runtime.language.gguf_file import LanguageFile
from saymask.runtime.language.opening import open_language

from .checkpoints import (
    LLAMA_31,
    TEXTS,
    byte_pair_tokenizer,
    largest_difference,
    llama_config,
    need_llama_cpp,
    random_weights,
    write_adapter,
    write_folder,
)

LAYOUTS = {
    "vicuna": {},
    "vicuna-16k": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama-3.1": {"rope_theta": 5e5, "rope_scaling": LLAMA_31},
    "wide-heads": {"head_dim": 32},
    "tied": {"tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1e6},
}
IDS = np.random.default_rng(0).integers(3, 380, 100)
Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"


def _open(path: Path, backend: str = "llamacpp", adapter: Path | None = None) -> LanguageEngine:
    if backend == "llamacpp":
        need_llama_cpp()
    return open_language(
        path, context_tokens=256, device="cpu", threads=1, backend=backend, adapter=adapter
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_states_and_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_folder(tmp_path / "model", **LAYOUTS[name])
    spec = convert(folder, tmp_path / "model.gguf", format="F32")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        theirs = model(torch.tensor(IDS)[None], output_hidden_states=True)
    for backend in ("llamacpp", "reference"):
        if backend == "reference" and name == "vicuna-16k":
            continue  # It takes positions as they are.
        with _open(tmp_path / "model.gguf", backend) as engine:
            ours = engine.prefill([IDS], at=range(len(IDS))).outputs
        assert largest_difference(ours.hidden, theirs.hidden_states[-1][0]) < 1e-5
        assert largest_difference(ours.logits, theirs.logits[0]) < 1e-5
    assert (spec.vocabulary, spec.layers, spec.begin) == (400, 2, 1)


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
def test_byte_pairs_read_texts_as_transformers_does(tmp_path: Path, pre: str) -> None:
    transformers = pytest.importorskip("transformers")
    content = byte_pair_tokenizer(pre)
    folder = write_folder(tmp_path / "model", tokenizer=content)
    convert(folder, tmp_path / "model.gguf")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    with _open(tmp_path / "model.gguf") as engine:
        for text in (*TEXTS, "<|begin_of_text|>the [SEG]red[REF] mug<|eot_id|>"):
            if pre == "qwen2" and "\u0301" in text:
                continue  # llama.cpp does not make Unicode's form C.
            plain = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
            whole = theirs.encode(text, add_special_tokens=False)
            assert engine.tokens(text, special=True) == whole, text
            # What was added without being special is found in every text.
            assert "[REF]" in text or engine.tokens(text) == plain, text
            assert engine.text(whole) == text


def test_pieces_read_texts_as_sentencepiece_does(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    added = {"390": {"content": "[SEG]", "special": True}, "391": {"content": "[REF]"}}
    folder = write_folder(tmp_path / "model", settings={"added_tokens_decoder": added})
    convert(folder, tmp_path / "model.gguf")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    with _open(tmp_path / "model.gguf") as engine:
        for text in TEXTS:
            assert engine.tokens(text) == theirs.encode(text), text
        assert (engine.token("[SEG]"), engine.token("[REF]")) == (390, 391)
        assert engine.tokens("a [REF]")[-1] == 391
        # A space comes also behind a control, unlike in transformers without "legacy".
        assert engine.tokens("[SEG].", special=True) == [390, *theirs.encode(".")]


@pytest.mark.parametrize(("format", "error"), [("F32", 0), ("F16", 1e-3), ("BF16", 8e-3)])
def test_matrices_are_rounded_and_norms_are_not(tmp_path: Path, format: str, error: float) -> None:
    folder = write_folder(tmp_path / "model")
    convert(folder, tmp_path / "model.gguf", format=format)
    file = LanguageFile(tmp_path / "model.gguf")
    weights = dict(map_tensors([folder / "model.safetensors"]))
    down = weights["model.layers.1.mlp.down_proj.weight"]
    assert largest_difference(file.tensor("blk.1.ffn_down.weight"), down) <= error
    np.testing.assert_array_equal(
        file.tensor("output_norm.weight"), weights["model.norm.weight"].numpy()
    )


def test_a_language_model_is_taken_out_of_a_multimodal_one(tmp_path: Path) -> None:
    weights = random_weights(llama_config())
    plain = write_folder(tmp_path / "plain", weights=weights)
    prefixed = {f"language_model.{name}": tensor for name, tensor in weights.items()}
    prefixed["vision_tower.vision_model.post_layernorm.weight"] = torch.ones(3)
    whole = write_folder(tmp_path / "whole", weights=prefixed)
    for folder in (plain, whole):
        convert(folder, folder / "model.gguf")
    assert (plain / "model.gguf").read_bytes() == (whole / "model.gguf").read_bytes()


def test_shards_are_read(tmp_path: Path) -> None:
    weights = random_weights(llama_config())
    folder = write_folder(tmp_path / "model", weights=weights)
    convert(folder, tmp_path / "one.gguf")
    (folder / "model.safetensors").unlink()
    half = dict(list(weights.items())[::2])
    save_file(half, folder / "a.safetensors")
    save_file({k: v for k, v in weights.items() if k not in half}, folder / "b.safetensors")
    places = {name: f"{'a' if name in half else 'b'}.safetensors" for name in weights}
    (folder / "model.safetensors.index.json").write_text(
        str({"weight_map": places}).replace("'", '"')
    )
    convert(folder, tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def _merged(weights: dict[str, torch.Tensor], adapter: Path) -> dict[str, torch.Tensor]:
    pairs = dict(map_tensors([adapter / "adapter_model.safetensors"]))
    changed = dict(weights)
    for module in (Q, UP):
        up, down = (pairs[f"base_model.model.{module}.lora_{side}.weight"] for side in "BA")
        changed[f"{module}.weight"] = weights[f"{module}.weight"] + 2 * up @ down
    return changed


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    weights = random_weights(llama_config())
    folder = write_folder(tmp_path / "model", weights=weights)
    beside = {"model.mm_projector.0.weight": torch.ones(8, 8)}
    adapter = write_adapter(
        tmp_path / "adapter", weights | beside, modules=(Q, UP, "model.mm_projector.0")
    )
    convert(folder, tmp_path / "merged.gguf", adapter=adapter, format="F32")
    same = write_folder(tmp_path / "same", weights=_merged(weights, adapter))
    convert(same, tmp_path / "same.gguf", format="F32")
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_up.weight", "blk.1.attn_q.weight"):
        ours, theirs = (
            LanguageFile(tmp_path / f"{file}.gguf").tensor(name) for file in ("merged", "same")
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    wide = random_weights(llama_config(hidden_size=128))
    adapter = write_adapter(tmp_path / "adapter", wide, modules=(Q,))
    with pytest.raises(CheckpointError, match=r"must fit the model's weights"):
        convert(folder, tmp_path / "model.gguf", adapter=adapter)
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize(("base", "warnings"), [("their/model", 0), ("their/other", 1)])
def test_an_adapter_that_names_another_model_is_merged_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, base: str, warnings: int
) -> None:
    weights = random_weights(llama_config())
    folder = write_folder(tmp_path / "model", weights=weights)
    adapter = write_adapter(
        tmp_path / "adapter", weights, modules=(Q,), base_model_name_or_path=base
    )
    convert(folder, tmp_path / "model.gguf", adapter=adapter)
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(found) == warnings
    assert all("was trained on 'their/other', and is merged into 'model'" in it for it in found)


@pytest.mark.parametrize("backend", ["llamacpp", "reference"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vicuna", {"use_rslora": True}),
        ("llama-3.1", {}),
        ("qwen2", {"alpha_pattern": {"q_proj": 3}}),
    ],
)
def test_an_adapter_beside_a_model_is_as_one_that_is_merged(
    tmp_path: Path, name: str, changes: dict[str, Any], backend: str
) -> None:
    weights = random_weights(llama_config(**LAYOUTS[name]))
    folder = write_folder(tmp_path / "model", weights=weights, **LAYOUTS[name])
    modules = tuple(
        key.removesuffix(".weight")
        for key in weights
        if key.endswith("_proj.weight") or key == "lm_head.weight"
    )
    adapter = write_adapter(tmp_path / "adapter", weights, modules=modules, **changes)
    convert(folder, tmp_path / "plain.gguf", format="F32")
    convert(folder, tmp_path / "merged.gguf", format="F32", adapter=adapter)
    convert_adapter(adapter, tmp_path / "adapter.gguf", layout=read_layout(folder))
    with _open(tmp_path / "merged.gguf", backend) as engine:
        expected = engine.prefill([IDS]).last
    with _open(tmp_path / "plain.gguf", backend, adapter=tmp_path / "adapter.gguf") as engine:
        found = engine.prefill([IDS]).last
    assert largest_difference(found.logits, expected.logits) < 1e-5
    assert largest_difference(found.hidden, expected.hidden) < 1e-5
    with _open(tmp_path / "plain.gguf", backend) as engine:
        assert largest_difference(engine.prefill([IDS]).last.logits, expected.logits) > 0.1


def test_weights_that_half_precision_can_not_hold_are_refused(tmp_path: Path) -> None:
    weights = random_weights(llama_config())
    weights[f"{UP}.weight"][0, 0] = 1e6
    folder = write_folder(tmp_path / "model", weights=weights)
    with pytest.raises(CheckpointError, match="some of model.layers.1.mlp.up_proj.weight"):
        convert(folder, tmp_path / "model.gguf")
    convert(folder, tmp_path / "model.gguf", format="BF16")


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="BF16, F16, F32; got 'Q8_0'"):
        convert(tmp_path, tmp_path / "model.gguf", format="Q8_0")
