"""An adapter beside a model changes what it says, and one for another model is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from saymask.runtime.errors import DeviceError, EngineError
from saymask.runtime.language.adapter_file import AdapterFile
from saymask.runtime.language.decoder import Spot
from saymask.runtime.language.gguf_file import LanguageFile
from saymask.runtime.language.opening import DECODERS, open_language

from .. import tiny_gguf
from ..tiny_gguf import open_on, relative_error

WORDS = [1, 300, 280, 311, 296]
SHAPES = {
    "blk.0.attn_q.weight": (64, 64),
    "blk.1.attn_k.weight": (32, 64),
    "blk.1.ffn_down.weight": (64, 128),
    "output.weight": (400, 64),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_gguf.write(tmp_path / "model.gguf")


@pytest.mark.parametrize(("alpha", "scale"), [(0.0, 1.0), (8.0, 2.0), (2.0, 0.5)])
def test_what_is_added(model, tmp_path, alpha, scale):
    path = tiny_gguf.write_adapter(tmp_path / "adapter.gguf", SHAPES, alpha=alpha)
    adapter = AdapterFile(path, LanguageFile(model))
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(str(path)).tensors}
    for name, shape in SHAPES.items():
        change = adapter.change(name)
        assert change is not None
        assert (change.shape, change.dtype) == (shape, np.float32)
        product = stored[f"{name}.lora_b"] @ stored[f"{name}.lora_a"]
        np.testing.assert_allclose(change, scale * product, rtol=1e-5)
    assert adapter.change("blk.0.attn_v.weight") is None
    assert adapter.size_bytes == path.stat().st_size


@pytest.mark.parametrize("alpha", [0.0, 8.0])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_backends_agree_with_an_adapter(tmp_path, architecture, alpha):
    model = tiny_gguf.write(tmp_path / "model.gguf", architecture=architecture)
    adapter = tiny_gguf.write_adapter(
        tmp_path / "adapter.gguf", SHAPES, architecture=architecture, alpha=alpha
    )
    found = []
    for backend in DECODERS:
        with open_on(backend, model, adapter=adapter) as engine:
            last = engine.prefill([WORDS]).last
            found.append((last.hidden, last.logits))
        with open_on(backend, model) as engine:
            assert relative_error(engine.prefill([WORDS]).last.logits, last.logits) > 0.1
    for ours, theirs in zip(*found, strict=True):
        assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("backend", DECODERS)
def test_a_state_fits_only_with_its_adapter(model, tmp_path, backend):
    adapter = tiny_gguf.write_adapter(tmp_path / "adapter.gguf", SHAPES)
    with open_on(backend, model, adapter=adapter) as engine:
        state = engine.save(engine.prefill([WORDS]))
        assert engine.restore(state).tokens == 5
    with open_on(backend, model) as engine, pytest.raises(EngineError, match="its model is"):
        engine.restore(state)


@pytest.mark.parametrize("backend", DECODERS)
@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (SHAPES, {"architecture": "qwen2"}, "a llama; it is for a qwen2; take the model that"),
        (SHAPES, {"kind": "control_vector"}, r"type lora; it says \('adapter', 'control_vector'\)"),
        (
            SHAPES | {"blk.0.attn_v.weight": (64, 64), "blk.9.attn_v.weight": (32, 64)},
            {},
            r"2 of 6 do not: .*attn_v.weight \(64, 64\), where the model has \(32, 64\); .* none;",
        ),
        ({"token_embd.weight": (400, 64)}, {}, "1 of 1 do not: token_embd.weight"),
        ({"output_norm.weight": (64, 64)}, {}, r"\(64, 64\), where the model has \(64,\)"),
    ],
)
def test_an_adapter_of_another_model(model, tmp_path, backend, shapes, options, message):
    path = tiny_gguf.write_adapter(tmp_path / "adapter.gguf", shapes, **options)
    with pytest.raises(EngineError, match=message):
        open_language(model, context_tokens=64, backend=backend, adapter=path)


def test_what_is_no_adapter(model, tmp_path):
    path = tmp_path / "adapter.gguf"
    with pytest.raises(EngineError, match="an adapter must be a GGUF file; there is none at"):
        AdapterFile(path, LanguageFile(model))
    with pytest.raises(EngineError, match=r"must be an adapter of type lora; it says \(None, None"):
        AdapterFile(model, LanguageFile(model))
    tiny_gguf.write_adapter(path, {})
    with pytest.raises(EngineError, match="must fit the matrices of"):
        AdapterFile(path, LanguageFile(model))
    tiny_gguf.write_adapter(path, SHAPES)
    whole = path.read_bytes()
    for old, new in ((b"attn_q.weight.lora_b", b"attn_q.weight.lora_c"), (b"_a", b"_b")):
        path.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(EngineError):
            AdapterFile(path, LanguageFile(model))
    path.write_bytes(whole[:-32])
    with pytest.raises(EngineError, match="it was cut off"):
        AdapterFile(path, LanguageFile(model))


def test_an_adapter_takes_memory(model, tmp_path, monkeypatch):
    spot = Spot(device="cpu", free_bytes=3 << 20)
    monkeypatch.setattr("saymask.runtime.backends.llama_reference.find_spot", lambda _: spot)
    for rank in (4, 2000):
        path = tiny_gguf.write_adapter(tmp_path / f"{rank}.gguf", SHAPES, rank=rank)
        if rank == 4:
            open_language(model, context_tokens=64, backend="reference", adapter=path).close()
            continue
        with pytest.raises(DeviceError, match=r"needs \d+ MiB on cpu; 3 MiB are free"):
            open_language(model, context_tokens=64, backend="reference", adapter=path)
