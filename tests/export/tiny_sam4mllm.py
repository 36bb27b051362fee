"""Writes a checkpoint of SAM4MLLM: random eyes, a random SAM, and a model that answers as told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saymask.export.checkpoint import CheckpointConfig
from saymask.export.language.byte_pairs import PRE_TOKENIZERS
from saymask.export.models.clip import ClipVisionSpec
from saymask.export.models.llama import LlamaSpec
from saymask.export.models.llava import LlavaVisionSpec
from saymask.export.models.llava_llama import LLAVA_SPECS, LlavaLlamaSpec
from saymask.export.models.sam4mllm import SAM4MLLM_SPECS, Sam4mllm, Sam4mllmSpec
from saymask.export.systems.sam4mllm import PROTOCOLS
from saymask.runtime.language.gguf_file import LanguageFile
from saymask.runtime.systems.sam4mllm_protocol import MINIATURE
from saymask.train import samples

from ..runtime import tiny_chat
from .tiny_evf_sam import TINY as TINY_EVF_SAM

PICTURES = 2
TASKS = ("single",)
LLAVA = LlavaLlamaSpec(
    vision=LlavaVisionSpec(
        vision_tower=ClipVisionSpec(
            image_hw=(24, 32), patch=8, width=32, heads=2, layers=2, mlp_width=64
        ),
        language_width=tiny_chat.WIDTH,
        has_newline=True,
    ),
    language=LlamaSpec(
        width=tiny_chat.WIDTH, layers=tiny_chat.LAYERS, heads=tiny_chat.WIDTH // tiny_chat.HEAD,
        key_heads=tiny_chat.WIDTH // tiny_chat.HEAD // 2, mlp_width=tiny_chat.HIDDEN,
        vocabulary=len(tiny_chat.vocabulary(tiny_chat.BOX)), rope_theta=500000.0,
        norm_epsilon=1e-5, max_positions=1024, is_tied=False,
    ),
)  # fmt: skip
TINY = Sam4mllmSpec(
    visual_model=replace(TINY_EVF_SAM.visual_model, mask_choice="best"),
    vision=LLAVA.vision,
    language="tiny",
    grids=((1, 2), (2, 1)),
    rounds_to_uint8=False,
)
PROTOCOL = replace(
    MINIATURE, system="Look.", point_count=2, keep_yes=0.6, max_tokens=8, context_tokens=512
)
_PARTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""What GGUF calls the weights, and what a checkpoint does."""


@contextmanager
def known() -> Iterator[None]:
    """Let checkpoints name the variant "tiny" meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAM4MLLM_SPECS, "tiny", TINY)
        patch.setitem(LLAVA_SPECS, "tiny", LLAVA)
        patch.setitem(PROTOCOLS, "tiny", PROTOCOL)
        yield


def write(folder: Path, answer: str = tiny_chat.BOX) -> Path:
    """Write a checkpoint whose model answers the first question about any picture with `answer`."""
    folder.mkdir()
    chat = tiny_chat.write(folder.with_suffix(".gguf"), answer)
    config = CheckpointConfig(system="sam4mllm", variant="tiny", max_tokens=64, license="CC0-1.0")
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(LanguageFile(chat))))
    save_file(_eyes() | language_weights(chat), folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "PICTURES", PICTURES)
        samples.write_samples(folder, tasks=TASKS)
    return folder


def language_weights(chat: Path) -> dict[str, Tensor]:
    """Read what `tiny_chat` wrote under the names, and in the order of rows, of a checkpoint."""
    return dict(_renamed(tensor) for tensor in gguf.GGUFReader(chat).tensors)


def _renamed(tensor: gguf.ReaderTensor) -> tuple[str, Tensor]:
    *layer, part, _ = tensor.name.split(".")
    weight = torch.from_numpy(tensor.data.copy())
    if part in {"attn_q", "attn_k"}:
        # Where llama.cpp rotates neighbors, checkpoints have them half a head apart.
        pairs = weight.unflatten(0, (-1, tiny_chat.HEAD // 2, 2))
        weight = pairs.transpose(1, 2).flatten(0, 2)
    before = f"model.layers.{layer[1]}." if layer else ""
    return f"{before}{_PARTS[part]}.weight", weight.contiguous()


def _eyes() -> dict[str, Tensor]:
    """Return random weights of all but the language model, which what it sees does not steer."""
    torch.manual_seed(0)
    state = Sam4mllm(TINY).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.startswith(("model.mm_projector.2.", "model.image_newline")):
            tensor[tiny_chat.STEERING] = 0
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _tokenizer(chat: LanguageFile) -> dict[str, object]:
    """Return a tokenizer.json as the library `tokenizers` writes it, of what `chat` says."""
    words, merges = (chat.metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges"))
    [cut] = [cut for cut, (name, _) in PRE_TOKENIZERS.items() if name == "llama-bpe"]
    controls = len(words) - len(tiny_chat.CONTROLS)
    return {
        "added_tokens": [
            {"id": at, "content": words[at], "special": True} for at in range(controls, len(words))
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated"},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        },
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "byte_fallback": False,
            "vocab": {word: at for at, word in enumerate(words[:controls])},
            "merges": list(merges),
        },
    }
