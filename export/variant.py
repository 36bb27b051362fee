"""What a user says that a checkpoint's weights are, held against its config and the weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ..runtime.errors import CheckpointError, UnknownNameError
from .checkpoint import CARD_FILE, CheckpointConfig, card_license, read_config
from .dialect import guess
from .systems import evf_sam, system_module
from .weights import map_tensors

__all__ = ["config_asked"]

_MARK = "-beit3-"
"""Between the image encoder and the other half of a variant of evf-sam."""
_UNKNOWN_LICENSE = "NOASSERTION"
"""SPDX's word where nobody said."""


def config_asked(system: str, asked: str) -> Callable[[Path, Sequence[Path]], CheckpointConfig]:
    """Return what reads a config for `checkpoint.open_checkpoint` and makes sure of its variant.

    Where there is no config.json, or EVF-SAM's tells no image encoder, the weights tell both sides.

    Args:
        system: Key of `SYSTEMS`.
        asked: A variant of it, or the image encoder that a variant of evf-sam begins with.

    Returns:
        Takes config.json and the files of the weights. Raises a CheckpointError where either is
        of another variant, or neither tells one.

    Raises:
        UnknownNameError: There is no such system, variant or image encoder.
    """
    known = _known(system)
    if asked not in known:
        raise UnknownNameError(f"variant of {system}", asked, known)
    return partial(_config, system, asked)


def _known(system: str) -> tuple[str, ...]:
    """Return image encoders, then whole variants."""
    variants = tuple(system_module(system).VARIANTS)
    encoders = (name.partition(_MARK)[0] for name in variants if _MARK in name)
    return *dict.fromkeys(encoders), *variants


def _config(system: str, asked: str, path: Path, weight_files: Sequence[Path]) -> CheckpointConfig:
    looks = guess(map_tensors(weight_files))
    seen = looks.removeprefix(f"{system} ") if looks.startswith(f"{system} ") else ""
    told = read_config(path, weight_files) if not _leaves_open(system, path) else None
    said = {
        f"{path} says": told.variant if told else "",
        "the weights look like": seen,
    }
    other = [f"{who} {variant}" for who, variant in said.items() if not _agree(asked, variant)]
    if other or not any(said.values()):
        nobody = f"neither {path} nor the weights tell one" + (
            f", which look like {looks}" if looks else ""
        )
        raise CheckpointError(
            f"--variant must be what the checkpoint holds; got {asked!r}, but "
            f"{' and '.join(other) or nobody}; name that or another checkpoint; the variants of "
            f"{system} are {', '.join(_known(system))}"
        )
    if told:
        return told
    license = card_license(path.with_name(CARD_FILE)) or _UNKNOWN_LICENSE
    return evf_sam.config_from_variant(seen, license=license)


def _agree(asked: str, variant: str) -> bool:
    """Say whether a variant is the one that is asked for; nothing contradicts nothing."""
    return not variant or asked in (variant, variant.partition(_MARK)[0])


def _leaves_open(system: str, path: Path) -> bool:
    """Say whether the weights of an evf-sam must tell what they are, as its config does not."""
    if system != "evf-sam":
        return False
    if not path.is_file():
        return True
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False  # Whoever reads it says what is wrong.
    scales = {scale for scale, *_ in evf_sam.RELEASED_IMAGE_ENCODERS}
    is_released = isinstance(config, dict) and config.get("model_type") == "evf"
    return is_released and str(config.get("sam_scale")) not in scales
