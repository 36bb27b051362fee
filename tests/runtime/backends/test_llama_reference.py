"""The reference computes what its parts say, and refuses what it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.runtime.backends.llama_reference import find_spot
from saymask.runtime.errors import DeviceError
from saymask.runtime.language.opening import open_language

from .. import tiny_gguf


def test_one_token_by_hand(tmp_path):
    """At position 0 nothing rotates and attention returns the value itself."""
    path = tiny_gguf.write(tmp_path / "model.gguf", layers=1)
    engine = open_language(path, context_tokens=8, backend="reference")
    weight = engine._decoder._weight

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + 1e-5) * weight(name)

    x = weight("token_embd.weight")[7]
    value = weight("blk.0.attn_v.weight") @ norm(x, "blk.0.attn_norm.weight")
    x = x + weight("blk.0.attn_output.weight") @ value.reshape(2, 16).repeat(2, 0).ravel()
    inner = norm(x, "blk.0.ffn_norm.weight")
    gate = weight("blk.0.ffn_gate.weight") @ inner
    up = weight("blk.0.ffn_up.weight") @ inner
    x = norm(x + weight("blk.0.ffn_down.weight") @ (gate / (1 + np.exp(-gate)) * up),
             "output_norm.weight")  # fmt: skip
    last = engine.prefill([[7]]).last
    np.testing.assert_allclose(last.hidden[0], x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last.logits[0], weight("output.weight") @ x, rtol=1e-4, atol=1e-4)


def test_a_device():
    assert find_spot("auto").device == "cpu"
    with pytest.raises(DeviceError, match="runs on the cpu; got device 'cuda:0'"):
        find_spot("cuda:0")


def test_byte_pairs(tmp_path):
    path = tiny_gguf.write(tmp_path / "model.gguf", tokenizer="gpt2")
    engine = open_language(path, context_tokens=8, backend="reference")
    ids = engine.tokens("the red<|end|>", special=True)
    assert [engine.text([token]) for token in ids] == ["the", " red", "<|end|>"]
