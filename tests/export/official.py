"""Checkpoints of official networks as EVF-SAM's authors release them, but with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor

from saymask.export.checkpoint import CheckpointConfig
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam
from saymask.export.models.sam2 import Sam2Spec
from saymask.export.models.sam2_video import SAM2_VIDEO_SPECS, Sam2VideoModel
from saymask.train.vocabulary import learn_sentencepiece

SAM_SCALES = {
    "efficientsam-s": "small",
    "efficientsam-ti": "tiny",
    "sam-h": "huge",
    "sam2-l": "large",
    "sam2-t": "tiny",
}
"""Image encoder -> the released config's "sam_scale"; the authors' code knows no other."""
WIDTHS = {"base": 768, "large": 1024}
"""BEiT-3 -> the released config's "hidden_size"."""
SENTENCES = (
    "the red mug left of the blue knife", "[semantic] the sky above a yellow car",
    "a striped bottle on the wooden table", "the person who is walking the smallest dog",
)  # fmt: skip
ROWS = 128
"""Of the word embedding that the learned pieces ask for; BEiT-3 has far more."""
SPARE_ROWS = 10
"""That BEiT-3 has beside those of 64000 pieces."""
SHARD_BYTES = 10**9
TOKEN_STD = 0.02
"""Of what is no matrix: biases, tokens and tables of positions."""


def write_official(
    folder: Path, variant: str, seed: int, *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a checkpoint in the released layout: FP16 shards, their index, config and vocabulary.

    SAM-2 comes with its memory, as released. Where no release has the variant's image encoder the
    config is our own.

    Args:
        folder: Where it goes; made here.
        variant: Key of `EVF_SAM_SPECS`.
        seed: Of the random weights.
        shard_bytes: Most bytes of a shard, one of which is held in memory at a time.
    """
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_config(variant), indent=2))
    rows = EVF_SAM_SPECS[variant].multimodal_encoder.vocabulary
    (folder / "sentencepiece.bpe.model").write_bytes(_vocabulary(rows - SPARE_ROWS))
    shards = _shards(official_state(variant), shard_bytes)
    generator = torch.Generator().manual_seed(seed)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: _filled(name, tensor, generator) for name, tensor in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def official_state(variant: str) -> dict[str, Tensor]:
    """Return the state dict of a variant as it is released, on device "meta"."""
    spec = EVF_SAM_SPECS[variant]
    with torch.device("meta"):
        network = EvfSam(spec)
        if isinstance(spec.visual_model, Sam2Spec):
            (video,) = (v for v in SAM2_VIDEO_SPECS.values() if v.visual == spec.visual_model)
            network.visual_model = Sam2VideoModel(video)
    return network.state_dict()


def _vocabulary(count: int) -> bytes:
    """Return the pieces of `SENTENCES`, and others that no text has, up to `count` in all."""
    model = sentencepiece_model_pb2.ModelProto.FromString(learn_sentencepiece(SENTENCES, rows=ROWS))
    unused = sentencepiece_model_pb2.ModelProto.SentencePiece.UNUSED
    for index in range(len(model.pieces), count):
        model.pieces.add(piece=f"unused {index}", score=-index, type=unused)
    return model.SerializeToString()


def _config(variant: str) -> dict[str, object]:
    encoder, _, words = variant.partition("-beit3-")
    if encoder in SAM_SCALES:
        return {
            "architectures": ["EvfSamModel"], "model_type": "evf", "torch_dtype": "float16",
            "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "out_dim": 256,
            "hidden_size": WIDTHS[words], "mm_extractor_scale": words,
            "sam_scale": SAM_SCALES[encoder],
        }  # fmt: skip
    return asdict(
        CheckpointConfig(system="evf-sam", variant=variant, max_tokens=48, license="Apache-2.0")
    )


def _shards(state: Mapping[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    held_bytes = 0
    for name, tensor in state.items():
        tensor_bytes = tensor.numel() * torch.float16.itemsize
        if shards[-1] and held_bytes + tensor_bytes > shard_bytes:
            shards.append({})
            held_bytes = 0
        shards[-1][name] = tensor
        held_bytes += tensor_bytes
    return shards


def _filled(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return random values that neither vanish nor grow on their way through the network."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
        return torch.ones(tensor.shape, dtype=torch.float16)
    is_matrix = tensor.ndim > 1 and name.endswith("weight")
    std = prod(tensor.shape[1:]) ** -0.5 if is_matrix else TOKEN_STD
    return torch.empty(tensor.shape).normal_(std=std, generator=generator).half()
