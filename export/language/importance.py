"""How much each input of a matrix counts: its mean square over texts and pictures that are read."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.backends import llama_binding
from ...runtime.backends.llamacpp import LlamaDecoder
from ...runtime.errors import EngineError, PromptError
from ...runtime.language.decoder import TOGETHER, Batch
from ...runtime.language.gguf_file import LanguageFile
from ...runtime.language.parts import Part, as_array

__all__ = ["measure_importance"]

_LAYER = {
    "attn_norm": ("attn_q", "attn_k", "attn_v"),
    "kqv_out": ("attn_output",),
    "ffn_norm": ("ffn_gate", "ffn_up"),
    "ffn_swiglu": ("ffn_down",),
}
"""What llama.cpp calls the inputs of a layer's matrices (llama-graph.cpp), and the matrices."""
_HIDDEN = "hidden states"
"""The input of the output matrix, which a decoder returns."""
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)


def measure_importance(
    graph: Path, readings: Sequence[Sequence[Part]], *, threads: int = 1
) -> dict[str, np.ndarray]:
    """Let a model read, and take the mean square of each input of each of its matrices.

    An error in a weight counts as often as its input is large, so `quantize` rounds those weights
    better whose inputs are (the diagonal of the layer's Hessian, as in llama.cpp's imatrix). What
    is read should be what the model will read: questions, answers, and pictures' embeddings.

    Args:
        graph: A GGUF file, best one that isn't quantized.
        readings: Conversations, each of stretches of token ids and of (n, width) float32 vectors.
        threads: Threads of the CPU.

    Returns:
        (columns,) float32 by the names of the matrices.

    Raises:
        EngineError: The file is damaged, or llama.cpp fails or does not compute what is watched.
        MissingExtraError: llama.cpp is not installed.
        PromptError: There is nothing to read, or a part is no part of this model.
    """
    file = LanguageFile(graph)
    conversations = [[as_array(part, file.spec) for part in reading] for reading in readings]
    lengths = [sum(map(len, arrays)) for arrays in conversations]
    if not lengths or min(lengths) < 1:
        raise PromptError(f"there must be texts to read, none empty; got lengths {lengths}")
    watch = _Watch(file)
    with _opened(file, max(lengths), threads, watch) as decoder:
        for arrays in conversations:
            for batch in _batches(arrays):
                hidden, _ = decoder.decode(batch)
                watch.add(_HIDDEN, np.asarray(hidden))
            decoder.drop(0)
    return watch.means()


class _Watch:
    """Adds up squares while llama.cpp computes."""

    def __init__(self, file: LanguageFile) -> None:
        """Watch the inputs of all matrices of `file`'s model."""
        self._matrices = _matrices(file)
        self._sums = {name: np.zeros(columns) for name, (_, columns) in self._matrices.items()}
        self._counts = dict.fromkeys(self._matrices, 0)
        self._call = llama_binding.load().call
        self._call.ggml_get_name.restype = ctypes.c_char_p
        self._call.ggml_nelements.restype = ctypes.c_int64
        self.callback = _CALLBACK(self._see)

    def add(self, name: str, values: np.ndarray) -> None:
        """Add up rows of inputs."""
        rows = values.reshape(-1, len(self._sums[name]))
        self._sums[name] += np.square(rows, dtype=np.float64).sum(axis=0)
        self._counts[name] += len(rows)

    def means(self) -> dict[str, np.ndarray]:
        """Return the mean squares by the names of the matrices.

        Raises:
            EngineError: llama.cpp computed nothing of that name.
        """
        missing = [name for name, count in self._counts.items() if not count]
        if missing:
            raise EngineError(
                f"llama.cpp must compute {', '.join(self._counts)}; it has no {missing}; install "
                "the version that saymask asks for"
            )
        return {
            matrix: (self._sums[name] / self._counts[name]).astype(np.float32)
            for name, (matrices, _) in self._matrices.items()
            for matrix in matrices
        }

    def _see(self, tensor: int, is_asked: bool, _: Any) -> bool:
        """Say whether `tensor` is wanted; when it is computed, add it up and go on."""
        pointer = ctypes.c_void_p(tensor)
        name = self._call.ggml_get_name(pointer).decode()
        if is_asked:
            return name in self._matrices
        values = np.empty(self._call.ggml_nelements(pointer), np.float32)
        # The tensor may lie on a GPU.
        self._call.ggml_backend_tensor_get(
            pointer, ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(0),
            ctypes.c_size_t(values.nbytes),
        )  # fmt: skip
        self.add(name, values)
        return True


def _matrices(file: LanguageFile) -> dict[str, tuple[tuple[str, ...], int]]:
    """Return what llama.cpp computes, which matrices take it, and how many columns it has."""
    spec = file.spec
    columns = {"kqv_out": spec.heads * spec.head_width, "ffn_swiglu": spec.hidden}
    found = {
        f"{name}-{layer}": (
            tuple(f"blk.{layer}.{matrix}.weight" for matrix in matrices),
            columns.get(name, spec.width),
        )
        for layer in range(spec.layers)
        for name, matrices in _LAYER.items()
    }
    last = "output.weight" if "output.weight" in file else "token_embd.weight"
    return found | {_HIDDEN: ((last,), spec.width)}


def _batches(arrays: Sequence[np.ndarray]) -> Iterator[Batch]:
    """Cut a conversation into steps of one kind.

    All outputs are wanted, as llama.cpp computes the last layer only where one is.
    """
    start = 0
    for array in arrays:
        for first in range(0, len(array), TOGETHER):
            inputs = array[first : first + TOGETHER]
            yield Batch(
                inputs=inputs,
                positions=np.arange(start, start + len(inputs), dtype=np.int32),
                sequences=np.zeros(len(inputs), np.int32),
                wanted=np.ones(len(inputs), bool),
                has_hidden=True,
            )
            start += len(inputs)


@contextmanager
def _opened(file: LanguageFile, tokens: int, threads: int, watch: _Watch) -> Iterator[LlamaDecoder]:
    """Open a model, on a GPU if this llama.cpp has one, with a callback at each of its steps."""
    llama = llama_binding.load()
    model = llama.call.llama_model_load_from_file(
        str(file.path).encode(), llama.call.llama_model_default_params()
    )
    params = llama.call.llama_context_default_params()
    params.n_ctx = max(tokens, TOGETHER)
    params.n_batch = params.n_ubatch = TOGETHER
    params.n_threads = params.n_threads_batch = threads
    params.cb_eval = ctypes.cast(watch.callback, ctypes.c_void_p)
    context = llama.call.llama_init_from_model(model, params) if model else None
    if not context:
        raise EngineError(
            f"{llama.name} must open {file.path} with room for {tokens} tokens; it refuses: "
            f"{llama.said()}; convert it again, or read shorter texts"
        )
    decoder = LlamaDecoder(llama, model, context, file)
    try:
        yield decoder
    finally:
        decoder.close()
