from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saymask.export.language.layout import layout_from_config, read_layout
from saymask.runtime.errors import CheckpointError

from .checkpoints import llama_config

LLAMA_31 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def test_a_config_is_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(llama_config()))
    layout = read_layout(tmp_path)
    assert (layout.architecture, layout.width, layout.head_width, layout.hidden) == (
        "llama", 64, 16, 96,
    )  # fmt: skip
    assert (layout.rope_base, layout.linear_factor, layout.frequency_factors) == (10000.0, 1.0, ())
    assert (layout.begin, layout.end, layout.is_tied) == (1, 2, False)


def test_what_older_and_newer_versions_of_transformers_write_is_the_same() -> None:
    old = llama_config(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 4})
    new = llama_config(rope_parameters={"rope_theta": 5e5, "rope_type": "linear", "factor": 4})
    before, after = layout_from_config(old, "old"), layout_from_config(new, "new")
    assert replace(before, rope_scaling=after.rope_scaling) == after
    assert before.rope_scaling["rope_type"] == after.rope_scaling["rope_type"] == "linear"
    assert layout_from_config(new, "new").linear_factor == 4


def test_a_multimodal_config_holds_the_one_of_the_language_model() -> None:
    inner = llama_config(model_type="qwen2", eos_token_id=[7, 8])
    layout = layout_from_config({"model_type": "llava_next", "text_config": inner}, "outer")
    assert (layout.architecture, layout.end) == ("qwen2", 7)


def test_frequency_factors_are_those_of_transformers() -> None:
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    configuration = pytest.importorskip("transformers").LlamaConfig(
        hidden_size=4096, num_attention_heads=32, rope_theta=5e5, rope_scaling=LLAMA_31,
        max_position_embeddings=131072,
    )  # fmt: skip
    theirs, _ = rope.ROPE_INIT_FUNCTIONS["llama3"](configuration, "cpu")
    config = llama_config(
        hidden_size=4096, num_attention_heads=32, rope_theta=5e5, rope_scaling=LLAMA_31
    )
    factors = np.array(layout_from_config(config, "here").frequency_factors)
    plain = 5e5 ** -(np.arange(0, 128, 2) / 128)
    assert (factors[0], factors[-1]) == (1.0, 8.0)
    np.testing.assert_allclose(plain / factors, theirs.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mistral"}, "'mistral'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "yarn"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"hidden_size": None}, "TypeError"),
    ],
)
def test_what_can_not_be_converted_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        layout_from_config(llama_config(**change), "config.json")


def test_a_fact_that_is_missing_is_named() -> None:
    config = llama_config()
    del config["intermediate_size"]
    with pytest.raises(CheckpointError, match="intermediate_size"):
        layout_from_config(config, "config.json")


@pytest.mark.parametrize("content", ["[]", "{", None])
def test_a_folder_must_have_a_config(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json must be a JSON object"):
        read_layout(tmp_path)
