"""llama.cpp is kept from ending the process, and says what it refuses."""

from __future__ import annotations

import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from saymask.runtime.backends import llama_binding, llamacpp
from saymask.runtime.errors import DeviceError, EngineError, MissingExtraError
from saymask.runtime.language.adapter_file import AdapterFile
from saymask.runtime.language.opening import open_language

from .. import tiny_gguf
from ..tiny_gguf import open_on


@pytest.fixture(autouse=True)
def llama() -> llama_binding.Llama:
    try:
        return llama_binding.load()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture
def model(tmp_path):
    return tiny_gguf.write(tmp_path / "tiny.gguf")


@pytest.mark.parametrize("context_tokens", [1, 100, 256, 257, 1500])
def test_a_full_context_in_one_batch(model, context_tokens):
    with open_on("llamacpp", model, context_tokens=context_tokens) as engine:
        held = engine.prefill([[5] * context_tokens], at=range(0, context_tokens, 97))
        assert held.tokens == context_tokens
        held.close()
        vectors = np.ones((context_tokens, 64), np.float32)
        assert engine.prefill([vectors]).tokens == context_tokens


def test_a_batch_of_several_steps(model):
    """More suffix tokens than are computed at once."""
    with open_on("llamacpp", model, context_tokens=1200) as engine:
        prefix = engine.prefill([[7, 8]])
        many = engine.extend(prefix, [[token] * 11 for token in range(100)], has_hidden=True)
        (alone,) = engine.extend(prefix, [[99] * 11])
    np.testing.assert_allclose(many[99].logits, alone.logits, atol=1e-4)


def test_adapters_that_llama_cpp_refuses(model, tmp_path, llama, monkeypatch):
    path = tiny_gguf.write_adapter(tmp_path / "adapter.gguf", {"blk.0.attn_q.weight": (64, 64)})
    with monkeypatch.context() as patch:
        patch.setattr(llama.call, "llama_set_adapters_lora", lambda *_: -1)
        with pytest.raises(EngineError, match="must add an adapter; it returns -1: .*; merge it"):
            open_on("llamacpp", model, adapter=path)
    monkeypatch.setattr(AdapterFile, "_check_fit", lambda *_: None)
    tiny_gguf.write_adapter(path, {"blk.0.attn_q.weight": (64, 32)})
    with pytest.raises(EngineError, match="must load the adapter .*gguf; it refuses: .*convert"):
        open_on("llamacpp", model, adapter=path)
    open_on("llamacpp", model).close()


def test_four_bits(tmp_path):
    path = tiny_gguf.write(tmp_path / "model.gguf", format="Q4_0")
    assert np.isfinite(open_on("llamacpp", path).prefill([[5, 6]]).last.logits).all()


def test_byte_pairs(tmp_path):
    engine = open_on("llamacpp", tiny_gguf.write(tmp_path / "model.gguf", tokenizer="gpt2"))
    ids = engine.tokens("the red\né<|end|>", special=True)
    assert [engine.text([token]) for token in ids[:3]] == ["the", " red", "\n"]
    assert ids[-1] == engine.token("<|end|>") == engine.spec.end == 399
    assert engine.text(ids) == "the red\né<|end|>"
    assert engine.spec.end not in engine.tokens("<|end|>")


def test_a_file_that_is_refused(tmp_path, model):
    data = model.read_bytes().replace(b"blk.1.attn_q.weight", b"blk.1.attn_p.weight")
    (tmp_path / "other.gguf").write_bytes(data)
    with pytest.raises(EngineError, match=r"must load .*; it refuses: .*blk\.1\.attn_q\.weight"):
        open_on("llamacpp", tmp_path / "other.gguf")


def test_a_state_that_is_refused(model):
    with open_on("llamacpp", model) as engine:
        with pytest.raises(EngineError, match="must take a state back; it refuses"):
            engine._decoder.restore(3, b"nothing of the kind")
        assert engine.prefill([[5]]).tokens == 1


def test_a_decode_that_fails(model, llama, monkeypatch):
    with open_on("llamacpp", model) as engine:
        monkeypatch.setattr(llama.call, "llama_decode", lambda *_: 1)
        with pytest.raises(EngineError, match="must decode 1 tokens; it returns 1"):
            engine.prefill([[5]])
        monkeypatch.undo()
        monkeypatch.setattr(llama.call, "llama_get_logits_ith", lambda *_: None)
        with pytest.raises(EngineError, match="must return outputs of token 0; it has none"):
            engine.prefill([[5]])


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_device_that_does_not_work(model, llama, device):
    if llamacpp._gpus(llama) and device != "cuda:7":
        pytest.skip("CUDA works here")
    with pytest.raises(DeviceError, match=rf"{device} does not: .* finds \d+ GPUs; install llama-"):
        open_on("llamacpp", model, device=device)


def test_auto_takes_the_cpu_and_says_so(model, llama, caplog):
    if llamacpp._gpus(llama):
        pytest.skip("CUDA works here")
    with caplog.at_level(logging.INFO, "saymask"):
        assert open_on("llamacpp", model, device="auto").device == "cpu"
    assert "device auto takes the CPU" in caplog.text


def test_a_gpu_is_named_and_chosen(llama, monkeypatch):
    """Devices of other kinds don't count."""
    names = [b"CPU", b"Vulkan0", b"CUDA0", b"CUDA1"]

    def memory(at, free, total):
        free.value = at << 30

    call = SimpleNamespace(
        ggml_backend_dev_count=lambda: len(names),
        ggml_backend_dev_get=lambda at: at,
        ggml_backend_dev_name=names.__getitem__,
        ggml_backend_dev_memory=memory,
    )
    monkeypatch.setattr(llama_binding, "load", lambda: SimpleNamespace(call=call, name="it"))
    spots = [llamacpp.find_spot(device) for device in ("auto", "cuda", "cuda:1", "cpu")]
    assert [spot.device for spot in spots] == ["cuda:0", "cuda:0", "cuda:1", "cpu"]
    assert [spot.free_bytes for spot in spots[:3]] == [2 << 30, 2 << 30, 3 << 30]
    with pytest.raises(DeviceError, match="it finds 2 GPUs"):
        llamacpp.find_spot("cuda:2")


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(model):
    found, expected = (
        open_on("llamacpp", model, device=device).prefill([[5, 6, 7]]).last
        for device in ("cuda", "cpu")
    )
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-2)


def test_a_process_ends_in_peace(model):
    """Engines and prefixes that nobody closed, and no word on stderr."""
    script = (
        "from pathlib import Path; import sys\n"
        "from saymask.runtime.language.opening import open_language\n"
        "engine = open_language(Path(sys.argv[1]), context_tokens=64, device='cpu', threads=1)\n"
        "prefix = engine.prefill([[5]])\n"
        "print(sorted({'torch', 'gguf', 'xllamacpp', 'llama_cpp'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(model)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_opened_by_default(model):
    assert isinstance(
        open_language(model, context_tokens=8, device="cpu")._decoder, llamacpp.LlamaDecoder
    )
