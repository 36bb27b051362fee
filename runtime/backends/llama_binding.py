"""The C interface of llama.cpp: where its library comes from, its structs and its functions."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections import deque
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32
from ctypes import c_void_p as pointer
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ..errors import EngineError, MissingExtraError

__all__ = ["LIBRARIES", "Batch", "Library", "Llama", "ModelParams", "load"]

_LOG = logging.getLogger("saymask")
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
_PREFIX = "" if sys.platform == "win32" else "lib"
_ERRORS_SHOWN = 3
_ADVICE = "run: pip install 'saymask[llm]'"
_ERROR_LEVEL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A Python package that carries llama.cpp; structs differ from version to version."""

    distribution: str
    """Name to install it by."""
    module: str
    """Folder of the package."""
    file: str
    """The library in that folder."""
    version: str
    """The only version whose structs are known here."""
    has_further_field: bool
    """Whether `llama_context_params` has one more pointer behind `abort_callback_data`."""


LIBRARIES = (
    Library(
        distribution="llama-cpp-python",
        module="llama_cpp",
        file=f"lib/{_PREFIX}llama{_SUFFIX}",
        version="0.3.36",
        has_further_field=False,
    ),
    Library(
        distribution="xllamacpp",
        module="xllamacpp",
        file="xllamacpp.abi3.so",
        version="2026.10.11549",
        has_further_field=True,
    ),
)
"""Where llama.cpp comes from: the first that is installed counts.

llama-cpp-python is compiled where it is installed, for its processor or GPU; xllamacpp is a wheel
that needs no compiler and runs on every CPU with AVX2 or NEON.
"""


class ModelParams(ctypes.Structure):
    """`llama_model_params`."""

    _fields_ = [
        ("devices", pointer),
        ("tensor_buft_overrides", pointer),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", pointer),
        ("progress_callback", pointer),
        ("progress_callback_user_data", pointer),
        ("kv_overrides", pointer),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    ]


class Batch(ctypes.Structure):
    """`llama_batch`: tokens or embeddings, and for each its position, sequence and output flag."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", pointer),
        ("embd", pointer),
        ("pos", pointer),
        ("n_seq_id", pointer),
        ("seq_id", pointer),
        ("logits", pointer),
    ]


_CONTEXT_PARAMS = (
    *((name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
    *((name, c_uint32) for name in ("n_outputs_max", "n_outputs_max_per_seq")),
    *((name, c_int32) for name in ("n_threads", "n_threads_batch", "ctx_type")),
    *((name, c_int) for name in ("rope_scaling_type", "pooling_type", "attention_type")),
    ("flash_attn_type", c_int),
    *((name, c_float) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor")),
    *((name, c_float) for name in ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")),
    ("yarn_orig_ctx", c_uint32),
    ("defrag_thold", c_float),
    ("cb_eval", pointer),
    ("cb_eval_user_data", pointer),
    ("type_k", c_int),
    ("type_v", c_int),
    ("abort_callback", pointer),
    ("abort_callback_data", pointer),
)
_CONTEXT_SWITCHES = (
    *((name, c_bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload")),
    *((name, c_bool) for name in ("swa_full", "kv_unified")),
    ("samplers", pointer),
    ("n_samplers", c_size_t),
    ("ctx_other", pointer),
)
_KNOWN_MODEL = {"n_gpu_layers": -1, "split_mode": 1, "main_gpu": 0, "use_extra_bufts": True}
_KNOWN_CONTEXT = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "flash_attn_type": -1,
    "yarn_ext_factor": -1.0, "defrag_thold": -1.0, "type_k": 1, "type_v": 1, "embeddings": False,
    "offload_kqv": True, "no_perf": True, "op_offload": True, "swa_full": True,
    "kv_unified": False, "n_samplers": 0,
}  # fmt: skip
"""Defaults of llama.cpp: that they are found where we look proves the layout of its structs."""

_BYTES, _TOKENS = c_char_p, POINTER(c_int32)
_FUNCTIONS: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("llama_backend_init", None, ()),
    ("llama_model_default_params", ModelParams, ()),
    ("llama_model_load_from_file", pointer, (_BYTES, ModelParams)),
    ("llama_model_free", None, (pointer,)),
    ("llama_model_get_vocab", pointer, (pointer,)),
    ("llama_adapter_lora_init", pointer, (pointer, _BYTES)),
    (
        "llama_set_adapters_lora",
        c_int32,
        (pointer, POINTER(pointer), c_size_t, POINTER(c_float)),
    ),
    ("llama_free", None, (pointer,)),
    ("llama_get_memory", pointer, (pointer,)),
    ("llama_set_embeddings", None, (pointer, c_bool)),
    ("llama_decode", c_int32, (pointer, Batch)),
    ("llama_get_logits_ith", POINTER(c_float), (pointer, c_int32)),
    ("llama_get_embeddings_ith", POINTER(c_float), (pointer, c_int32)),
    ("llama_memory_seq_cp", None, (pointer, c_int32, c_int32, c_int32, c_int32)),
    ("llama_memory_seq_rm", c_bool, (pointer, c_int32, c_int32, c_int32)),
    ("llama_state_seq_get_size", c_size_t, (pointer, c_int32)),
    ("llama_state_seq_get_data", c_size_t, (pointer, pointer, c_size_t, c_int32)),
    ("llama_state_seq_set_data", c_size_t, (pointer, pointer, c_size_t, c_int32)),
    ("llama_tokenize", c_int32, (pointer, _BYTES, c_int32, _TOKENS, c_int32, c_bool, c_bool)),
    ("llama_token_to_piece", c_int32, (pointer, c_int32, _BYTES, c_int32, c_int32, c_bool)),
    ("ggml_backend_dev_count", c_size_t, ()),
    ("ggml_backend_dev_get", pointer, (c_size_t,)),
    ("ggml_backend_dev_name", c_char_p, (pointer,)),
    ("ggml_backend_dev_memory", None, (pointer, POINTER(c_size_t), POINTER(c_size_t))),
)
_LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int, c_char_p, pointer)


class Llama:
    """llama.cpp in this process; its functions are attributes of `call`, spelled as in llama.h."""

    def __init__(self, path: Path, library: Library) -> None:
        """Bind the library at `path` and prove its structs.

        Raises:
            EngineError: It does not load, lacks a function or has other structs.
        """
        switches = (("further_field", pointer),) if library.has_further_field else ()
        fields = [*_CONTEXT_PARAMS, *switches, *_CONTEXT_SWITCHES]
        context_params = type("ContextParams", (ctypes.Structure,), {"_fields_": fields})
        self.name = f"{library.distribution} {library.version}"
        try:
            self.call: Any = ctypes.CDLL(str(path))
            for name, result, arguments in (
                *_FUNCTIONS,
                ("llama_context_default_params", context_params, ()),
                ("llama_init_from_model", pointer, (pointer, context_params)),
                ("llama_log_set", None, (_LOG_CALLBACK, pointer)),
            ):
                function = getattr(self.call, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise EngineError(
                f"llama.cpp of {self.name} must load; it does not: {error}; {_ADVICE}"
            ) from error
        self._check(self.call.llama_model_default_params(), _KNOWN_MODEL)
        self._check(self.call.llama_context_default_params(), _KNOWN_CONTEXT)
        self._errors: deque[str] = deque(maxlen=_ERRORS_SHOWN)
        self._callback = _LOG_CALLBACK(self._take_line)
        self.call.llama_log_set(self._callback, None)
        self.call.llama_backend_init()

    def said(self) -> str:
        """Return what llama.cpp last complained about, and forget it."""
        lines = "; ".join(self._errors)
        self._errors.clear()
        return lines or "it gives no reason"

    def _take_line(self, level: int, line: bytes, _: Any) -> None:
        text = line.decode(errors="replace").strip()
        if level == _ERROR_LEVEL and text:
            self._errors.append(text)
        _LOG.debug("llama.cpp: %s", text)

    def _check(self, params: Any, known: dict[str, Any]) -> None:
        found = {name: getattr(params, name) for name in known}
        if found != known:
            raise EngineError(
                f"the structs of {self.name} must be those of its release; its defaults read "
                f"{found} instead of {known}; {_ADVICE}"
            )


@cache
def load() -> Llama:
    """Bind the installed llama.cpp, once in a process, as its log callback can't be given back.

    Raises:
        EngineError: It is of another version, or does not load.
        MissingExtraError: There is none.
    """
    for library in LIBRARIES:
        spec = util.find_spec(library.module)
        folders = spec.submodule_search_locations if spec else None
        version = _installed(library.distribution)
        if not folders or not version:
            continue
        if version != library.version:
            raise EngineError(
                f"{library.distribution} must be of version {library.version}, as llama.cpp's "
                f"structs change from one to the next; got {version}; install that one, or remove "
                "it and run: pip install 'saymask[llm]'"
            )
        return Llama(Path(folders[0]) / library.file, library)
    raise MissingExtraError(f"language models need llama.cpp, which is not installed; {_ADVICE}")


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
