"""A language model taken out of a multimodal checkpoint, as a Hugging Face folder of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ...runtime.errors import UnknownNameError
from ...runtime.language.quantized_folder import CONFIG_FILE
from ...runtime.replace import replacing
from ..weights import WEIGHTS_FILE, find_weight_files, map_tensors
from .conversion import DTYPES, language_adapter, rounded
from .layout import Layout, read_layout
from .names import language_tensors, targets
from .vocabulary import read_vocabulary

__all__ = ["write_folder"]

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
"""What GGUF calls a network, and what transformers does."""
_COPIED = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
    "generation_config.json",
)  # fmt: skip
"""Files beside the weights that say how texts become tokens, those that are there."""


def write_folder(
    folder: Path,
    out: Path,
    *,
    adapter: Path | None = None,
    format: str = "F16",
    layout: Layout | None = None,
) -> None:
    """Write a checkpoint's language model, all or nothing and one block in memory at a time.

    Args:
        folder: Weights, vocabulary and config.json; a vision tower in it is passed over by name.
        out: The folder, which is replaced if it is there.
        adapter: Folder of a LoRA that is merged in float32 before anything is rounded.
        format: Key of `conversion.DTYPES`, for all weights.
        layout: What the model is, where config.json doesn't say it.

    Raises:
        CheckpointError: Weights, vocabulary or adapter are missing, damaged or do not fit.
        MissingExtraError: sentencepiece is not installed.
        OSError: The folder can't be written.
        UnknownNameError: There is no such format.
    """
    if format not in DTYPES:
        raise UnknownNameError("format", format, DTYPES)
    layout = layout or read_layout(folder)
    uses = read_vocabulary(folder, layout).uses
    tensors = language_tensors(map_tensors(find_weight_files(folder)), layout, str(folder))
    change = adapter and language_adapter(adapter, layout)

    def make(name: str) -> Tensor:
        whole = change.merged(name, tensors[name]) if change else tensors[name]
        return rounded(name, whole, DTYPES[format])

    with replacing(out) as partial:
        _write_weights(partial, layout, make)
        _write_json(partial / CONFIG_FILE, _config(layout, format, uses))
        for name in _COPIED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, partial / name)


def _write_weights(folder: Path, layout: Layout, make: Callable[[str], Tensor]) -> None:
    """Write a file for each block and for each matrix beside them, and the index of all."""
    blocks = groupby(targets(layout), key=lambda name: name.split(".")[:3])
    shards = [tuple(names) for _, names in blocks]
    places, size_bytes = {}, 0
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        made = {name: make(name) for name in names}
        save_file(made, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
        size_bytes += sum(tensor.nbytes for tensor in made.values())
    index = {"metadata": {"total_size": size_bytes}, "weight_map": places}
    _write_json(folder / f"{WEIGHTS_FILE}.index.json", index)


def _config(layout: Layout, format: str, uses: Mapping[str, int]) -> dict[str, Any]:
    """Say what the model is, in the words that transformers had before its version 5."""
    return {
        "architectures": [_ARCHITECTURES[layout.architecture]],
        "model_type": layout.architecture,
        "torch_dtype": str(DTYPES[format]).removeprefix("torch."),
        "hidden_act": "silu",
        "hidden_size": layout.width,
        "intermediate_size": layout.hidden,
        "num_hidden_layers": layout.layers,
        "num_attention_heads": layout.heads,
        "num_key_value_heads": layout.kv_heads,
        "head_dim": layout.head_width,
        "vocab_size": layout.vocabulary,
        "max_position_embeddings": layout.trained_tokens,
        "rms_norm_eps": layout.norm_epsilon,
        "rope_theta": layout.rope_base,
        "rope_scaling": dict(layout.rope_scaling) or None,
        "tie_word_embeddings": layout.is_tied,
        "bos_token_id": uses.get("bos"),
        "eos_token_id": uses.get("eos"),
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
