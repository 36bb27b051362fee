"""What tensors are called: which other names are the same, which are left over, whose they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .models.sam2_memory import UPSTREAM_NAMES

__all__ = ["Match", "guess", "match"]

RENAMES = (
    # DistributedDataParallel wraps the network as `module`.
    (r"^module\.", ""),
    # transformers called every gamma of EVF-SAM's copy of SAM-2 a weight.
    *((rf"\b{re.escape(theirs)}$", ours) for theirs, ours in UPSTREAM_NAMES.items()),
)
"""Pattern and replacement, tried in turn until the network knows the name."""

LEFTOVERS = (
    # Integers from 0 on, which old versions of transformers stored.
    r"\bposition_ids$",
    # Functions of the configuration, which old versions of transformers stored.
    r"\brotary_emb\.inv_freq$",
    # BEiT-3's pre-training alone hides patches and guesses words.
    r"\bvision_embed\.mask_token$",
    r"\b(mlm_head|mim_head)\.",
    # SAM-2's memory of earlier frames; here every frame stands alone.
    r"\b(memory_attention|memory_encoder|obj_ptr_proj|mask_downsample)\.",
    r"\b(maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr)$",
)
"""Patterns of names that a network may leave unused."""

WHOLES = (
    ("SegLLM", r"^model\.segmentator"),
    ("M2SA", r"\bmask_decoder\.compress_vit\."),
    ("LISA, from which M2SA grew", r"^model\.text_hidden_fcs\."),
    ("LLaVA, from which M2SA, RAS, SAM4MLLM and SegLLM grew", r"^model\.mm_projector\."),
    ("a LoRA adapter, as SAM4MLLM's is", r"\blora_[AB]\b"),
)
"""Whose weights these are by a pattern of a name; the first counts."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A network that is known by the shape of one of its tensors."""

    title: str
    """What its authors call it."""
    variant: str
    """What EVF-SAM's variants call it."""
    users: str
    """Systems that it is a part of."""
    tensor: str
    """Official name of the tensor."""
    shape: tuple[int, ...]
    """Its shape, which no other network gives this name."""


def _sam(size: str, variant: str, width: int) -> _Part:
    shape = (1, 64, 64, width)
    return _Part(f"SAM {size}", variant, "EVF-SAM and M2SA", "image_encoder.pos_embed", shape)


def _efficient_sam(size: str, variant: str, width: int) -> _Part:
    shape = (1, 197, width)
    return _Part(f"EfficientSAM-{size}", variant, "EVF-SAM", "image_encoder.pos_embed", shape)


def _sam2(size: str, variant: str, depth: int, width: int) -> _Part:
    tensor = f"image_encoder.trunk.blocks.{depth - 1}.norm1.weight"
    return _Part(f"SAM-2 {size}", variant, "EVF-SAM", tensor, (width,))


def _efficientvit(size: str, depth: int, width: int) -> _Part:
    tensor = f"image_encoder.neck.middle.op_list.{depth - 1}.main.point_conv.conv.weight"
    title, variant = f"EfficientViT-SAM-{size.upper()}", f"efficientvit-{size}"
    return _Part(title, variant, "SAM4MLLM and EVF-SAM", tensor, (256, width, 1, 1))


def _beit3(size: str, width: int) -> _Part:
    shape = (64010, width)
    return _Part(f"BEiT-3 {size}", f"beit3-{size}", "EVF-SAM", "beit3.text_embed.weight", shape)


IMAGE_ENCODERS = (
    _sam("ViT-H", "sam-h", 1280),
    _sam("ViT-L", "sam-l", 1024),
    _sam("ViT-B", "sam-b", 768),
    _sam2("large", "sam2-l", 48, 1152),
    _sam2("base+", "sam2-b+", 24, 896),
    _sam2("small", "sam2-s", 16, 768),
    _sam2("tiny", "sam2-t", 12, 768),
    _efficient_sam("S", "efficientsam-s", 384),
    _efficient_sam("Ti", "efficientsam-ti", 192),
    # A deeper neck holds the names of a flatter one, so the deepest come first.
    _efficientvit("xl1", 12, 1024),
    _efficientvit("l2", 12, 256),
    _efficientvit("l1", 8, 256),
    _efficientvit("xl0", 6, 1024),
    _efficientvit("l0", 4, 256),
)
MULTIMODAL_ENCODERS = (_beit3("large", 1024), _beit3("base", 768))


@dataclass(frozen=True, slots=True)
class Match:
    """Stored tensors under a network's names."""

    tensors: dict[str, Tensor]
    """Those that fit, one for each name."""
    misfits: tuple[str, ...]
    """What is missing, unknown, twice or of another shape, in words; empty if all fit."""
    leftovers: tuple[str, ...]
    """Stored names of what the network has no use for and may leave unused."""


def match(stored: Sequence[tuple[str, Tensor]], wanted: Mapping[str, Tensor]) -> Match:
    """Give each stored tensor the network's name for it, each name once.

    Args:
        stored: Names and tensors of a checkpoint; a name may come twice.
        wanted: State dict of the network, of which only names and shapes are read.
    """
    sources: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    misfits, leftovers = [], []
    for source, value in stored:
        name = _known_name(source, wanted)
        if name not in wanted:
            if any(re.search(pattern, name) for pattern in LEFTOVERS):
                leftovers.append(source)
            else:
                misfits.append(f"{source} is unknown")
        elif name in sources:
            misfits.append(f"{name} comes twice, as {sources[name]} and {source}")
        else:
            sources[name] = source
            tensors[name] = value
    missing = [f"{name} is missing" for name in wanted if name not in sources]
    reshaped = [
        f"{name} is {tuple(value.shape)}, not {tuple(wanted[name].shape)}"
        for name, value in tensors.items()
        if value.shape != wanted[name].shape
    ]
    return Match(tensors, (*missing, *misfits, *reshaped), tuple(leftovers))


def guess(stored: Sequence[tuple[str, Tensor]]) -> str:
    """Say whose weights these look like.

    Returns:
        For example "evf-sam sam-h-beit3-large" or "SAM ViT-H, a part of EVF-SAM and M2SA"; empty
        where no known network is recognised.
    """
    shapes = {re.sub(*RENAMES[0], name): tuple(value.shape) for name, value in stored}
    for title, pattern in WHOLES:
        if any(re.search(pattern, name) for name in shapes):
            return title
    image = _find(IMAGE_ENCODERS, shapes, "visual_model.")
    words = _find(MULTIMODAL_ENCODERS, shapes, "mm_extractor.")
    if image and words:
        return f"evf-sam {image.variant}-{words.variant}"
    part = _find((*IMAGE_ENCODERS, *MULTIMODAL_ENCODERS), shapes, "")
    return f"{part.title}, a part of {part.users}" if part else ""


def _known_name(name: str, wanted: Mapping[str, Tensor]) -> str:
    for pattern, replacement in RENAMES:
        if name in wanted:
            break
        name = re.sub(pattern, replacement, name)
    return name


def _find(
    parts: Sequence[_Part], shapes: Mapping[str, tuple[int, ...]], prefix: str
) -> _Part | None:
    fitting = (part for part in parts if shapes.get(prefix + part.tensor) == part.shape)
    return next(fitting, None)
