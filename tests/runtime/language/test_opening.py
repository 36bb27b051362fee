"""Opening checks the file, the device and the memory before a model is loaded."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.runtime.errors import DeviceError, EngineError, UnknownNameError, UsageError
from saymask.runtime.language.decoder import Spot
from saymask.runtime.language.gguf_file import LanguageFile
from saymask.runtime.language.opening import DECODERS, needed_bytes, open_language

from .. import tiny_gguf


@pytest.fixture
def model(tmp_path):
    return tiny_gguf.write(tmp_path / "tiny.gguf")


def test_defaults(model):
    engine = open_language(model, context_tokens=64, backend="reference")
    assert (engine.device, engine.context_tokens) == ("cpu", 64)
    assert engine.spec == LanguageFile(model).spec


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "torch"}, UnknownNameError, "backend must be one of llamacpp, reference"),
        ({"cache_dtype": "int4"}, UnknownNameError, "cache_dtype must be one of float16, float32"),
        ({"device": "gpu"}, UsageError, "device must be auto, cpu, cuda or cuda:N; got 'gpu'"),
        ({"context_tokens": 0}, UsageError, "context_tokens must be at least 1 .*; got 0 and None"),
        ({"threads": 0}, UsageError, "threads from 1 to 512; got 64 and 0"),
        ({"threads": 513}, UsageError, "threads from 1 to 512; got 64 and 513"),
    ],
)
def test_requests_that_make_no_sense(model, options, error, message):
    with pytest.raises(error, match=message):
        open_language(model, **{"context_tokens": 64, "backend": "reference", **options})


@pytest.mark.parametrize("backend", DECODERS)
def test_a_model_that_does_not_fit(model, monkeypatch, backend):
    module = f"saymask.runtime.backends.{DECODERS[backend]}"
    monkeypatch.setattr(f"{module}.find_spot", lambda _: Spot(device="cpu", free_bytes=3 << 20))
    with pytest.raises(
        DeviceError, match=r"with 1048576 tokens in float32 needs \d+ MiB on cpu; 3 MiB are"
    ):
        open_language(model, context_tokens=1 << 20, backend=backend, cache_dtype="float32")


def test_needed_bytes(model):
    """LLaMA-7B with 2048 tokens in float16: its weights, 1 GiB of cache and some hundred MiB."""
    spec = LanguageFile(model).spec
    small = needed_bytes(spec, context_tokens=256, cache_dtype="float16")
    large = needed_bytes(spec, context_tokens=256, cache_dtype="float32")
    # Two layers of two heads of 16 numbers, keys and values, two bytes more for each.
    assert large - small == 256 * 2 * 2 * 2 * 16 * 2
    assert small > spec.weight_bytes


@pytest.mark.parametrize("backend", DECODERS)
def test_files_that_are_refused(tmp_path, model, backend):
    whole = np.frombuffer(model.read_bytes(), np.uint8)
    path = tmp_path / "other.gguf"
    for content, message in (
        (b"", "there is none at"),
        (b"PK\x03\x04" + bytes(100), r"whole GGUF file .* begins with b'PK"),
        (whole[:3000].tobytes(), "must be a whole GGUF file of version 2 or 3; it is not"),
        (whole[:-32].tobytes(), r"must hold \d+ bytes; got \d+: it was cut off"),
    ):
        path.write_bytes(content)
        with pytest.raises(EngineError, match=message):
            open_language(path, context_tokens=64, backend=backend)
    with pytest.raises(EngineError, match="there is none at .*missing"):
        open_language(tmp_path / "missing.gguf", context_tokens=64, backend=backend)


@pytest.mark.parametrize("backend", DECODERS)
def test_byte_pairs_that_do_not_say_how_words_are_told_apart(tmp_path, backend):
    path = tiny_gguf.write(tmp_path / "model.gguf", tokenizer="gpt2")
    with tiny_gguf.open_on(backend, path) as engine:
        assert engine.text(engine.tokens("the red mug")) == "the red mug"
    path.write_bytes(path.read_bytes().replace(b"tokenizer.ggml.pre", b"tokenizer.ggml.erp"))
    with pytest.raises(EngineError, match=r"model.gguf must say in tokenizer.ggml.pre how .* not;"):
        open_language(path, context_tokens=64, backend=backend)
