"""Opening a language engine: which backend, on which device, and whether it fits there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from .. import backends
from ..errors import DeviceError, UnknownNameError, UsageError
from ..machine import allowed_cores
from ..tables import module_from_table
from . import LanguageEngine
from .adapter_file import AdapterFile
from .decoder import MAX_SEQUENCES, TOGETHER, DecoderModule, Spot
from .gguf_file import LanguageFile, LanguageSpec
from .tensorrt_llm import refusal

__all__ = ["CACHE_DTYPES", "DECODERS", "needed_bytes", "open_language"]

DECODERS = {"llamacpp": "llamacpp", "reference": "llama_reference"}
"""Names of backends and their modules in `backends/`, imported when chosen."""

CACHE_DTYPES = {"float32": 4, "float16": 2}
"""Types that keys and values may be kept in, and their bytes."""

_MAX_THREADS = 512
"""llama.cpp ends the process when it is given more (GGML_MAX_N_THREADS)."""


def open_language(
    graph: Path,
    *,
    context_tokens: int,
    device: str = "auto",
    threads: int | None = None,
    cache_dtype: str = "float32",
    backend: str = "llamacpp",
    adapter: Path | None = None,
) -> LanguageEngine:
    """Open a language model.

    Args:
        graph: A GGUF file.
        context_tokens: Tokens that all prefixes and suffixes may take together, where what they
            share counts once.
        device: "auto", "cpu", "cuda" or "cuda:N"; only "auto" may fall back to the CPU.
        threads: Threads of the CPU; None takes all cores that this process may use.
        cache_dtype: Key of `CACHE_DTYPES`; float16 halves the cache and costs about 1e-3 of the
            hidden states' size.
        backend: Key of `DECODERS`.
        adapter: A LoRA as a GGUF file of its own, added to the model's matrices, which stay as they
            are on disk; `export.language.conversion.convert_adapter` writes one.

    Raises:
        DeviceError: `device` does not work, or the model and its cache do not fit into its memory,
            or `graph` is a folder for TensorRT-LLM.
        EngineError: The file is damaged or of another kind, the adapter is for another model, or
            the backend refuses them.
        MissingExtraError: The backend's library is not installed.
        UnknownNameError: There is no such backend or type.
        UsageError: `device`, `threads` or `context_tokens` make no sense.
    """
    package = backends.__name__
    module = cast(DecoderModule, module_from_table("backend", backend, DECODERS, package))
    _check_request(device, threads, context_tokens, cache_dtype)
    if graph.is_dir():
        raise refusal(graph)
    file = LanguageFile(graph)
    change = adapter and AdapterFile(adapter, file)
    spot = module.find_spot(device)
    _check_memory(file, change, spot, context_tokens, cache_dtype)
    decoder = module.open_decoder(
        file,
        device=spot.device,
        threads=threads or allowed_cores(),
        context_tokens=context_tokens,
        cache_dtype=cache_dtype,
        adapter=change,
    )
    return LanguageEngine(
        decoder,
        file,
        device=spot.device,
        context_tokens=context_tokens,
        cache_dtype=cache_dtype,
        adapter=change,
    )


def needed_bytes(spec: LanguageSpec, *, context_tokens: int, cache_dtype: str) -> int:
    """Estimate the memory of weights, cache, outputs and the largest step, in bytes."""
    a_token = 2 * spec.layers * spec.kv_heads * spec.head_width * CACHE_DTYPES[cache_dtype]
    outputs = 4 * MAX_SEQUENCES * spec.vocabulary
    # Attention's scores and their softmax, logits, or what the feed-forward block holds.
    widest = max(2 * spec.heads * context_tokens, spec.vocabulary, 3 * spec.hidden)
    step = 4 * min(TOGETHER, context_tokens) * widest
    return spec.weight_bytes + context_tokens * a_token + outputs + step


def _check_request(device: str, threads: int | None, context_tokens: int, cache_dtype: str) -> None:
    if cache_dtype not in CACHE_DTYPES:
        raise UnknownNameError("cache_dtype", cache_dtype, CACHE_DTYPES)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"device must be auto, cpu, cuda or cuda:N; got {device!r}")
    if context_tokens < 1 or not (threads is None or 1 <= threads <= _MAX_THREADS):
        raise UsageError(
            f"context_tokens must be at least 1 and threads from 1 to {_MAX_THREADS}; got "
            f"{context_tokens} and {threads}"
        )


def _check_memory(
    file: LanguageFile,
    adapter: AdapterFile | None,
    spot: Spot,
    context_tokens: int,
    cache_dtype: str,
) -> None:
    needed = needed_bytes(file.spec, context_tokens=context_tokens, cache_dtype=cache_dtype)
    needed += adapter.size_bytes if adapter else 0
    if spot.free_bytes is not None and needed > spot.free_bytes:
        raise DeviceError(
            f"{file.path} with {context_tokens} tokens in {cache_dtype} needs {needed >> 20} MiB "
            f"on {spot.device}; {spot.free_bytes >> 20} MiB are free; take fewer tokens, float16 "
            "or a smaller file"
        )
