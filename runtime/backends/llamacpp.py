"""llama.cpp runs a language model, on the CPU or on a CUDA device."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import numpy as np

from .. import machine
from ..errors import DeviceError, EngineError
from ..language.adapter_file import AdapterFile
from ..language.decoder import MAX_SEQUENCES, TOGETHER, Batch, Spot
from ..language.gguf_file import LanguageFile
from . import llama_binding
from .llama_binding import Llama

__all__ = ["LlamaDecoder", "find_spot", "open_decoder"]

_LOG = logging.getLogger("saymask")
_GGML_TYPES = {"float32": 0, "float16": 1}
_GRANULE = 256
"""A context holds a multiple of so many tokens."""
_WITHOUT, _POOL_NOTHING, _ALL_LAYERS = 0, 0, -1


class LlamaDecoder:
    """A model and a context of llama.cpp, with one cache that all sequences share.

    Flash attention stays off, as it rounds keys and values to float16 whatever the cache holds.
    """

    def __init__(self, llama: Llama, model: Any, context: Any, file: LanguageFile) -> None:
        """Wrap an open context of `file`'s model."""
        self.name = llama.name
        self._llama = llama
        self._model = model
        self._context = context
        self._memory = llama.call.llama_get_memory(context)
        self._vocabulary = llama.call.llama_model_get_vocab(model)
        self._spec = file.spec

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """Encode a text; see `language_decoder.Decoder`."""
        data = text.encode(errors="replace")
        ids = np.empty(len(data) + 1, np.int32)
        while True:
            count = self._llama.call.llama_tokenize(
                self._vocabulary, data, len(data), _ints(ids), len(ids), False, special
            )
            if count >= 0:
                return ids[:count].tolist()
            ids = np.empty(-count, np.int32)

    def piece(self, token: int) -> bytes:
        """Return the UTF-8 of a token, or the part of it that it stands for."""
        buffer = ctypes.create_string_buffer(64)
        while True:
            count = self._llama.call.llama_token_to_piece(
                self._vocabulary, token, buffer, len(buffer), 0, True
            )
            if count >= 0:
                return buffer.raw[:count]
            buffer = ctypes.create_string_buffer(-count)

    def decode(self, batch: Batch) -> tuple[np.ndarray | None, np.ndarray]:
        """Decode a batch; see `language_decoder.Decoder`."""
        call, count = self._llama.call, len(batch.inputs)
        inputs = np.ascontiguousarray(batch.inputs)
        positions = np.ascontiguousarray(batch.positions, np.int32)
        sequences = np.ascontiguousarray(batch.sequences, np.int32)
        # Each token is of one sequence; the list of lists that llama.cpp takes ends with a NULL.
        lists = np.append(sequences.ctypes.data + 4 * np.arange(count), 0).astype(np.uintp)
        ones = np.ones(count, np.int32)
        # With hidden states llama.cpp takes every token for wanted, and else complains.
        flags = (batch.wanted | batch.has_hidden).astype(np.int8)
        call.llama_set_embeddings(self._context, batch.has_hidden)
        status = call.llama_decode(
            self._context,
            llama_binding.Batch(
                n_tokens=count,
                token=inputs.ctypes.data if inputs.ndim == 1 else None,
                embd=inputs.ctypes.data if inputs.ndim == 2 else None,
                pos=positions.ctypes.data,
                n_seq_id=ones.ctypes.data,
                seq_id=lists.ctypes.data,
                logits=flags.ctypes.data,
            ),
        )
        if status:
            raise EngineError(
                f"llama.cpp must decode {count} tokens; it returns {status}: "
                f"{self._llama.said()}; open the engine again, with more context_tokens"
            )
        rows = np.flatnonzero(batch.wanted)
        logits = self._rows(call.llama_get_logits_ith, rows, self._spec.vocabulary)
        if not batch.has_hidden:
            return None, logits
        return self._rows(call.llama_get_embeddings_ith, rows, self._spec.width), logits

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence share all of another one's tokens."""
        self._llama.call.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def drop(self, sequence: int) -> None:
        """Forget a sequence; tokens that others share stay."""
        self._llama.call.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def save(self, sequence: int) -> bytes:
        """Return the keys and values of a sequence."""
        call = self._llama.call
        state = np.empty(call.llama_state_seq_get_size(self._context, sequence), np.uint8)
        count = call.llama_state_seq_get_data(
            self._context, state.ctypes.data, len(state), sequence
        )
        if count != len(state):
            raise EngineError(
                f"llama.cpp must return a state of {len(state)} bytes; it returns {count}: "
                f"{self._llama.said()}; read the conversation again"
            )
        return state.tobytes()

    def restore(self, sequence: int, state: bytes) -> None:
        """Fill an empty sequence with what `save` returned, or raise an EngineError."""
        data = np.frombuffer(state, np.uint8)
        restored = self._llama.call.llama_state_seq_set_data(
            self._context, data.ctypes.data, len(data), sequence
        )
        if not restored:
            raise EngineError(
                f"llama.cpp must take a state back; it refuses: {self._llama.said()}; read the "
                "conversation again"
            )

    def close(self) -> None:
        """Give the memory back."""
        self._llama.call.llama_free(self._context)
        self._llama.call.llama_model_free(self._model)

    def _rows(self, get: Any, rows: np.ndarray, width: int) -> np.ndarray:
        table = np.empty((len(rows), width), np.float32)
        for row, index in zip(table, rows.tolist(), strict=True):
            address = get(self._context, index)
            if not address:
                raise EngineError(f"llama.cpp must return outputs of token {index}; it has none")
            row[:] = np.ctypeslib.as_array(address, (width,))
        return table


def find_spot(device: str) -> Spot:
    """Settle a device and say how much memory is free there.

    Raises:
        DeviceError: CUDA was asked for and this llama.cpp does not reach it.
        EngineError: llama.cpp does not load.
        MissingExtraError: It is not installed.
    """
    llama = llama_binding.load()
    index = int(device.partition(":")[2] or 0)
    gpus = [] if device == "cpu" else _gpus(llama)
    if index < len(gpus):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        llama.call.ggml_backend_dev_memory(gpus[index], free, total)
        return Spot(device=f"cuda:{index}", free_bytes=free.value)
    if device.startswith("cuda"):
        raise DeviceError(
            f"the device must work here; {device} does not: {llama.name} finds {len(gpus)} GPUs; "
            "install llama-cpp-python built with CMAKE_ARGS=-DGGML_CUDA=on, or take device cpu"
        )
    if device == "auto":
        level = logging.WARNING if machine.cuda_devices() else logging.INFO
        _LOG.log(level, "device auto takes the CPU: %s finds no GPU", llama.name)
    memory = machine.memory_bytes()
    return Spot(device="cpu", free_bytes=memory["available"] if memory else None)


def open_decoder(
    file: LanguageFile,
    *,
    device: str,
    threads: int,
    context_tokens: int,
    cache_dtype: str,
    adapter: AdapterFile | None,
) -> LlamaDecoder:
    """Load a model and allocate its cache; see `language_decoder.DecoderModule`.

    Raises:
        EngineError: llama.cpp refuses the file, its adapter, or its context.
    """
    llama = llama_binding.load()
    model = _load_model(llama, file, device)
    # An adapter is loaded first, as a context makes room for those that the model has then.
    loaded = _load_adapter(llama, model, adapter) if adapter else None
    params = llama.call.llama_context_default_params()
    # llama.cpp ends the process where a batch has less room than there are sequences.
    params.n_ctx = params.n_batch = -(-context_tokens // _GRANULE) * _GRANULE
    params.n_ubatch = min(TOGETHER, params.n_ctx)
    params.n_seq_max = MAX_SEQUENCES
    params.n_threads = params.n_threads_batch = threads
    params.n_outputs_max = params.n_outputs_max_per_seq = 0
    params.kv_unified = True
    params.type_k = params.type_v = _GGML_TYPES[cache_dtype]
    params.flash_attn_type, params.pooling_type = _WITHOUT, _POOL_NOTHING
    params.offload_kqv = params.op_offload = device != "cpu"
    context = llama.call.llama_init_from_model(model, params)
    if not context:
        llama.call.llama_model_free(model)
        raise EngineError(
            f"{llama.name} must make a context of {context_tokens} tokens for {file.path}; it "
            f"refuses: {llama.said()}; take fewer tokens"
        )
    decoder = LlamaDecoder(llama, model, context, file)
    if loaded:
        one, scale = ctypes.c_void_p(loaded), ctypes.c_float(1)
        if status := llama.call.llama_set_adapters_lora(context, one, 1, scale):
            decoder.close()
            raise EngineError(
                f"llama.cpp must add an adapter; it returns {status}: {llama.said()}; merge it "
                "into the model"
            )
    return decoder


def _load_model(llama: Llama, file: LanguageFile, device: str) -> Any:
    params = llama.call.llama_model_default_params()
    # The list ends with a NULL; an empty one keeps a build with CUDA off the GPU.
    chosen = [] if device == "cpu" else [_gpus(llama)[int(device.partition(":")[2])]]
    devices = (ctypes.c_void_p * (len(chosen) + 1))(*chosen, None)
    params.devices = ctypes.cast(devices, ctypes.c_void_p)
    params.n_gpu_layers = _ALL_LAYERS if chosen else 0
    model = llama.call.llama_model_load_from_file(str(file.path).encode(), params)
    if not model:
        raise EngineError(
            f"{llama.name} must load {file.path}; it refuses: {llama.said()}; export it again"
        )
    return model


def _load_adapter(llama: Llama, model: Any, adapter: AdapterFile) -> Any:
    """Load what is freed with its model."""
    loaded = llama.call.llama_adapter_lora_init(model, str(adapter.path).encode())
    if not loaded:
        llama.call.llama_model_free(model)
        raise EngineError(
            f"{llama.name} must load the adapter {adapter.path}; it refuses: {llama.said()}; "
            "convert it again"
        )
    return loaded


def _gpus(llama: Llama) -> list[int]:
    call = llama.call
    devices = [call.ggml_backend_dev_get(at) for at in range(call.ggml_backend_dev_count())]
    return [it for it in devices if call.ggml_backend_dev_name(it).startswith(b"CUDA")]


def _ints(array: np.ndarray) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
