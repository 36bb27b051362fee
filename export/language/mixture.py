"""Which tensor of a language model is kept in which format, as llama.cpp mixes them.

A file's format is that of most matrices. What loses most is kept finer:

tensor                          Q4_0, Q6_K     Q4_K_M              Q5_K_M
token_embd                      Q8_0           Q8_0                Q8_0
output                          Q6_K           Q6_K                Q6_K
attn_v, ffn_down                as the file    Q6_K in half of     Q6_K in half of
                                               the layers          the layers
norms, biases, rope_freqs       F32            F32                 F32

In Q8_0 and F16 all matrices are of one format. "Half of the layers" are the first and the last
eighth and every third between them. llama.cpp's own tool (llama-quant.cpp, which this follows)
keeps the embedding table in the file's format instead, or in Q6_K where it is the output matrix
too: here its rows can be read without llama.cpp. Its exceptions for 80 layers and for mixtures of
experts are left out, as no model here has them.
"""

from __future__ import annotations

__all__ = ["QUANTIZED", "tensor_format"]

QUANTIZED = {
    "F16": "F16", "Q4_0": "Q4_0", "Q8_0": "Q8_0", "Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K",
    "Q6_K": "Q6_K",
}  # fmt: skip
"""Formats of a file that `quantize` writes, and the one of most of its matrices."""

_EMBEDDING, _OUTPUT, _FINER = "Q8_0", "Q6_K", "Q6_K"
_SENSITIVE = ("attn_v.weight", "ffn_down.weight")
_BLOCKS = {"Q4_0": 32, "Q8_0": 32, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256}
_NARROWER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What llama.cpp takes where rows are no whole number of 256 weights, but of 32."""


def tensor_format(name: str, shape: tuple[int, ...], file_format: str, layers: int) -> str:
    """Return ggml's name of a tensor's format.

    Args:
        name: GGUF's name of the tensor.
        shape: Its extents, rows first.
        file_format: Key of `QUANTIZED`.
        layers: Transformer blocks of the model.
    """
    if len(shape) == 1:
        return "F32"
    most = QUANTIZED[file_format]
    if most in {"F16", "Q8_0"}:
        wanted = most
    elif name == "token_embd.weight":
        wanted = _EMBEDDING
    elif name == "output.weight":
        wanted = _OUTPUT
    elif name.endswith(_SENSITIVE) and file_format.endswith("_M") and _is_finer(name, layers):
        wanted = _FINER
    else:
        wanted = most
    return _fitting(wanted, shape[-1])


def _is_finer(name: str, layers: int) -> bool:
    layer = int(name.split(".")[1])
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _fitting(wanted: str, columns: int) -> str:
    if columns % _BLOCKS.get(wanted, 1) == 0:
        return wanted
    return _NARROWER.get(wanted, wanted) if columns % 32 == 0 else "F16"
