"""A checkpoint folder: weights, what network they are for, and its vocabulary.

config.json           what the weights are for: {"system": "evf-sam", "variant": "mini", ...}
model.safetensors     weights under the official names
sentencepiece.model   the vocabulary
samples/              pictures with phrases and truth, to calibrate and judge on (optional)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..runtime.errors import CheckpointError
from ..runtime.replace import replacing

__all__ = [
    "CONFIG_FILE",
    "MINIATURES",
    "VOCABULARY_FILE",
    "WEIGHTS_FILE",
    "Checkpoint",
    "CheckpointConfig",
    "open_checkpoint",
    "write_checkpoint",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
VOCABULARY_FILE = "sentencepiece.model"
MINIATURES = Path(__file__).parent / "miniatures"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """What the weights are for."""

    system: str
    """Key of `systems.SYSTEMS`."""
    variant: str
    """Sizes of the networks, a key of the system's table."""
    max_tokens: int
    """Longest phrase in tokens, with its begin and end."""
    license: str
    """SPDX identifier of the weights' licence."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint folder."""

    folder: Path
    config: CheckpointConfig

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def vocabulary(self) -> Path:
        """The SentencePiece model."""
        return self.folder / VOCABULARY_FILE

    def sha256(self) -> str:
        """Return the SHA-256 of the weight file as hexadecimal."""
        with (self.folder / WEIGHTS_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def load_into(self, network: nn.Module) -> None:
        """Copy every tensor into `network`, using each name exactly once.

        Raises:
            CheckpointError: A name or a shape does not fit; all misfits are listed.
        """
        wanted = network.state_dict()
        try:
            with safe_open(self.folder / WEIGHTS_FILE, framework="pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.folder / WEIGHTS_FILE} must be a whole safetensors file: {error}; "
                "copy the checkpoint again"
            ) from error
        misfits = _misfits(wanted, stored)
        if misfits:
            raise CheckpointError(
                f"the weights in {self.folder} must fit {self.config.system} "
                f"{self.config.variant} name by name; {len(misfits)} do not: "
                + "; ".join(misfits[:8])
                + "; check the variant in its config.json"
            )
        network.load_state_dict(
            {name: value.to(wanted[name].dtype) for name, value in stored.items()}
        )


def open_checkpoint(reference: str | Path) -> Checkpoint:
    """Open a checkpoint folder, or a miniature by its name.

    Raises:
        CheckpointError: It is missing or its config does not name a network.
    """
    folder = Path(reference)
    if not folder.exists() and (MINIATURES / str(reference)).is_dir():
        folder = MINIATURES / str(reference)
    for name in (CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE):
        if not (folder / name).is_file():
            known = ", ".join(sorted(path.name for path in MINIATURES.glob("*")))
            raise CheckpointError(
                f"a checkpoint is a folder with {CONFIG_FILE}, {WEIGHTS_FILE} and "
                f"{VOCABULARY_FILE}; {folder} has no {name}; give such a folder or one of the "
                f"miniatures: {known}"
            )
    return Checkpoint(folder, _read_config(folder / CONFIG_FILE))


def write_checkpoint(
    folder: Path,
    network: nn.Module,
    config: CheckpointConfig,
    vocabulary: bytes,
    *,
    extras: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a checkpoint, all or nothing.

    Float tensors of two or more axes are stored in FP16, everything else as it is.

    Args:
        folder: Where it goes; a checkpoint that is there already is replaced.
        network: Its weights, under their own names.
        config: What they are for.
        vocabulary: A SentencePiece model.
        extras: Adds more files to the new folder, for example samples.

    Raises:
        OSError: The folder cannot be written.
    """
    tensors = {name: _compact(value) for name, value in network.state_dict().items()}
    with replacing(folder) as scratch:
        save_file(tensors, scratch / WEIGHTS_FILE)
        (scratch / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n")
        (scratch / VOCABULARY_FILE).write_bytes(vocabulary)
        extras(scratch)


def _read_config(path: Path) -> CheckpointConfig:
    try:
        config = CheckpointConfig(**json.loads(path.read_text("utf-8")))
        for field in fields(config):
            value = getattr(config, field.name)
            if type(value).__name__ != field.type:
                raise TypeError(f"{field.name} is {value!r}, which is no {field.type}")
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} must be a JSON object with {', '.join(CheckpointConfig.__slots__)}: {error}; "
            "correct it"
        ) from error
    return config


def _compact(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.to(torch.float16) if value.ndim > 1 and value.is_floating_point() else value


def _misfits(wanted: dict[str, Tensor], stored: dict[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in wanted if name not in stored]
    unknown = [f"{name} is unknown" for name in stored if name not in wanted]
    reshaped = [
        f"{name} is {tuple(stored[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in stored and stored[name].shape != value.shape
    ]
    return missing + unknown + reshaped
