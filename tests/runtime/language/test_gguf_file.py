"""GGUF files read as the reference reader reads them, and damaged ones are refused."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from saymask.runtime.errors import EngineError
from saymask.runtime.language.gguf_file import LanguageFile, TokenKind

from .. import tiny_gguf


@pytest.mark.parametrize("format", ["F32", "F16", "BF16", "Q8_0"])
def test_tensors(tmp_path, format):
    path = tiny_gguf.write(tmp_path / "model.gguf", format=format)
    file = LanguageFile(path)
    for tensor in gguf.GGUFReader(str(path)).tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(file.tensor(tensor.name), expected)
        assert file.tensor(tensor.name).dtype == np.float32
        assert tensor.name in file
    rows = np.array([3, 0, 399, 3])
    np.testing.assert_array_equal(file.embeddings(rows), file.tensor("token_embd.weight")[rows])
    with pytest.raises(EngineError, match=r"must hold the tensor 'blk\.9"):
        file.tensor("blk.9.attn_q.weight")


def test_a_format_that_is_not_read(tmp_path):
    file = LanguageFile(tiny_gguf.write(tmp_path / "model.gguf", format="Q4_0"))
    assert file.spec.width == 64
    with pytest.raises(EngineError, match="token_embd.weight of .* must be F32.*; got Q4_0; keep"):
        file.embeddings(np.array([1]))


def test_what_a_model_is(tmp_path):
    spec = LanguageFile(tiny_gguf.write(tmp_path / "model.gguf")).spec
    assert (spec.architecture, spec.tokenizer) == ("llama", "llama")
    assert (spec.width, spec.hidden, spec.layers, spec.vocabulary) == (64, 128, 2, 400)
    assert (spec.heads, spec.kv_heads, spec.head_width) == (4, 2, 16)
    assert (spec.trained_tokens, spec.begin, spec.end) == (2048, 1, 2)
    assert spec.norm_epsilon == pytest.approx(1e-5)
    # Two tables, two blocks of four attention and three feed-forward matrices, and the norms.
    weights = 2 * 400 * 64 + 2 * (3 * 64 * 64 + 3 * 64 * 128) + 5 * 64
    assert spec.weight_bytes == 4 * weights


def test_fingerprints(tmp_path):
    """One weight tells two models apart; the name of the file does not."""
    first, copy = (tiny_gguf.write(tmp_path / name) for name in "ab")
    other = tiny_gguf.write(tmp_path / "c")
    data = bytearray(other.read_bytes())
    data[-64 * 400 * 4] ^= 1
    other.write_bytes(data)
    found = [LanguageFile(path).spec.fingerprint for path in (first, copy, other)]
    assert found[0] == found[1] != found[2]


def test_pieces(tmp_path):
    pieces = LanguageFile(tiny_gguf.write(tmp_path / "model.gguf")).pieces
    assert pieces[tiny_gguf.SEG] == ("[SEG]", -1000.0, TokenKind.CONTROL)
    assert pieces[tiny_gguf.REF] == ("[REF]", -1000.0, TokenKind.USER_DEFINED)
    assert pieces[3] == ("<0x00>", 0.0, TokenKind.BYTE)
    assert len(pieces) == 400


def test_another_architecture_or_tokenizer(tmp_path):
    file = LanguageFile(tiny_gguf.write(tmp_path / "model.gguf", architecture="gpt2"))
    with pytest.raises(EngineError, match=r"architecture of .* one of llama, qwen2; got 'gpt2'"):
        _ = file.spec
    file = LanguageFile(tiny_gguf.write(tmp_path / "model.gguf", tokenizer="bert"))
    with pytest.raises(EngineError, match=r"tokenizer of .* one of llama, gpt2, .*; got 'bert'"):
        _ = file.spec


@pytest.mark.parametrize(
    ("tokenizer", "old", "new"),
    [
        ("llama", b"<0x7F>", b"<0xGG>"),
        ("llama", b"<unused0>", b"<unused1>"),
        ("gpt2", "Ċ".encode(), "ā".encode()),
    ],
)
def test_a_vocabulary_that_would_end_the_process(tmp_path, tokenizer, old, new):
    path = tiny_gguf.write(tmp_path / "model.gguf", tokenizer=tokenizer)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(EngineError, match=r"repeats [01] tokens and lacks [01] bytes"):
        _ = LanguageFile(path).spec


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"llama.block_count", b"llama.block_tnuoc"),
        (b"token_embd.weight", b"token_dbme.weight"),
    ],
)
def test_a_missing_fact(tmp_path, old, new):
    path = tiny_gguf.write(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(EngineError, match="must say what a llama model is; it does not: KeyError"):
        _ = LanguageFile(path).spec


def test_damage_is_never_another_error(tmp_path):
    path = tiny_gguf.write(tmp_path / "model.gguf")
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = whole[: rng.integers(1, len(whole) + 1)].copy()
        places = rng.integers(0, min(len(damaged), 14000), 4)
        damaged[places] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            _ = LanguageFile(path).spec
        except EngineError:
            refused += 1
    assert refused > 150
