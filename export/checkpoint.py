"""A checkpoint folder: weights, what network they are for, and its vocabulary.

                     written by saymask                    as EVF-SAM's authors released it
config.json          {"system": "evf-sam", "variant": ...} {"model_type": "evf", ...}
weights              model.safetensors                     all that `weights` reads
vocabulary           sentencepiece.model                   or another of `VOCABULARY_FILES`
samples/             pictures with phrases and truth, to calibrate and judge on (optional)
README.md            the model card, whose licence counts where config.json names none
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..runtime.errors import CheckpointError, require
from ..runtime.replace import replacing
from .dialect import guess, match
from .hub import fetch_snapshot, is_hub_id
from .systems import system_module
from .weights import SUFFIXES, WEIGHTS_FILE, find_weight_files, map_tensors

__all__ = [
    "CONFIG_FILE",
    "MINIATURES",
    "VOCABULARY_FILE",
    "Checkpoint",
    "CheckpointConfig",
    "card_license",
    "open_checkpoint",
    "read_config",
    "write_checkpoint",
]

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
VOCABULARY_FILE = "sentencepiece.model"
VOCABULARY_FILES = (
    VOCABULARY_FILE, "sentencepiece.bpe.model", "beit3.spm", "tokenizer.model", "tokenizer.json",
)  # fmt: skip
"""What systems call their vocabulary; the first that is there counts."""
RELEASED = {"evf": "evf-sam", "llava_llama": "sam4mllm"}
"""A released config's "model_type" -> the system that reads it with `config_from_released`."""
MINIATURES = Path(__file__).parent / "miniatures"
HUB_EXAMPLE = "YxZhang/evf-sam"
MISFITS_SHOWN = 8
_MARKS = 3
"""First pieces of a SentencePiece model, whose ids + 1 are marks in XLM-RoBERTa's numbering."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint folder."""

    folder: Path
    """Where it lies."""
    name: str
    """The folder's name, or "owner/name@commit" on the hub."""
    config: CheckpointConfig
    """What its weights are for."""
    weight_files: tuple[Path, ...]
    """Files of the weights in the order of their names."""
    vocabulary: Path
    """One of `VOCABULARY_FILES`."""

    def sha256(self) -> str:
        """Return the SHA-256 of the weight files, one after the other, as hexadecimal."""
        digest = hashlib.sha256()
        for path in self.weight_files:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        return digest.hexdigest()

    def load_into(self, network: nn.Module) -> None:
        """Give `network` every tensor on the CPU, using each name exactly once.

        What is stored in the network's own precision stays in the mapped file and costs no memory
        of its own, so the files must not be written to while `network` lives; the rest is converted
        tensor by tensor. `network` may be on device "meta"; its parameters become new objects, so
        an optimizer is made afterwards.

        Raises:
            CheckpointError: A name or a shape does not fit; the misfits are listed.
        """
        wanted = network.state_dict()
        tensors = self._matched(wanted)
        for name, value in tensors.items():  # In place, so that no two copies are held.
            tensors[name] = value.to(wanted[name].dtype)
        network.load_state_dict(tensors, assign=True)

    def left_out(self, network: nn.Module) -> tuple[str, ...]:
        """List the stored names that `network` has no use for, so that it was filled without them.

        Raises:
            CheckpointError: A file is damaged.
        """
        return match(map_tensors(self.weight_files), network.state_dict()).leftovers

    def check_vocabulary(self, rows: int, *, fewest: int = 0) -> None:
        """Make sure that the vocabulary is a SentencePiece model for `rows` word embeddings.

        Args:
            rows: Its ids, SentencePiece's + 1, must be below; the first four are <s>, <pad>, </s>
                and <unk>, so that its own first three pieces must be marks and no words.
            fewest: Least pieces that it must have.

        Raises:
            CheckpointError: It is none, has too many or too few pieces, or begins with words.
            MissingExtraError: sentencepiece is not installed.
        """
        sentencepiece = require("sentencepiece", extra="export")
        try:
            pieces = sentencepiece.SentencePieceProcessor(model_file=str(self.vocabulary))
            count = pieces.get_piece_size()
            words = [
                pieces.id_to_piece(index)
                for index in range(min(count, _MARKS))
                if not (pieces.is_control(index) or pieces.is_unknown(index))
            ]
            found = f"it has {count} pieces" + (f" and begins with {words}" if words else "")
            fits = fewest <= count < rows and not words  # <pad> is no piece.
        except (OSError, RuntimeError) as error:
            found, fits = f"it is none ({error})", False
        if not fits:
            most = f"{f'{fewest} or more, but ' if fewest else ''}fewer than {rows} pieces"
            raise CheckpointError(
                f"{self.vocabulary} must be a SentencePiece model of {most}, as many as "
                f"{self.config.system} {self.config.variant} knows, the first {_MARKS} marks such "
                f"as <unk>, <s> and </s>; {found}; take the vocabulary that was released with the "
                "weights"
            )

    def _matched(self, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stored = map_tensors(self.weight_files)
        found = match(stored, wanted)
        if found.misfits:
            this, looks = f"{self.config.system} {self.config.variant}", guess(stored)
            raise CheckpointError(
                f"the weights in {self.folder} must fit {this} name by name; "
                f"{len(found.misfits)} do not: {'; '.join(found.misfits[:MISFITS_SHOWN])}; "
                + (f"they look like {looks}; " if looks else "")
                + ("copy them again" if looks == this else f"check what its {CONFIG_FILE} says")
            )
        return found.tensors


def open_checkpoint(
    reference: str | Path,
    config_of: Callable[[Path, Sequence[Path]], CheckpointConfig] | None = None,
) -> Checkpoint:
    """Open a checkpoint.

    Args:
        reference: Its folder, the name of a miniature, or "owner/name" or "owner/name@revision" on
            the Hugging Face hub.
        config_of: Takes the place of `read_config`, and may do without the file.

    Raises:
        CheckpointError: It is missing, incomplete or damaged, or its config names no network.
        MissingExtraError: It is on the hub and huggingface_hub is not installed.
    """
    folder, name = _locate(reference)
    config_file = folder / CONFIG_FILE if config_of else _one_of(folder, CONFIG_FILE)
    weight_files = find_weight_files(folder)
    if not weight_files:
        raise _incomplete(folder, WEIGHTS_FILE)
    vocabulary = _one_of(folder, *VOCABULARY_FILES)
    return Checkpoint(
        folder=folder,
        name=name,
        config=(config_of or read_config)(config_file, weight_files),
        weight_files=weight_files,
        vocabulary=vocabulary,
    )


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


def _locate(reference: str | Path) -> tuple[Path, str]:
    """Return a checkpoint's folder and its name."""
    folder = Path(reference)
    if folder.is_file():
        raise _no_folder(folder)
    if not folder.exists() and (MINIATURES / str(reference)).is_dir():
        folder = MINIATURES / str(reference)
    elif not folder.exists() and isinstance(reference, str) and is_hub_id(reference):
        folder = fetch_snapshot(reference)
        return folder, f"{reference.partition('@')[0]}@{folder.name}"
    return folder, folder.absolute().name


def _no_folder(file: Path) -> CheckpointError:
    looks = guess(map_tensors([file])) if file.suffix in SUFFIXES else ""
    return CheckpointError(
        f"a checkpoint is a folder with {CONFIG_FILE}, weights and {VOCABULARY_FILE}; {file} is a "
        f"file{looks and ' that looks like '}{looks}; give the folder of a whole system, or its "
        f"id on the hub such as {HUB_EXAMPLE}"
    )


def _one_of(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise _incomplete(folder, " or ".join(names))


def _incomplete(folder: Path, lacking: str) -> CheckpointError:
    known = ", ".join(sorted(path.name for path in MINIATURES.glob("*")))
    return CheckpointError(
        f"a checkpoint is a folder with {CONFIG_FILE}, weights and {VOCABULARY_FILE}; {folder} "
        f"has no {lacking}; give such a folder or one of the miniatures: {known}, or an id on the "
        f"hub such as {HUB_EXAMPLE}"
        + ("; or say with --variant what the weights are" if lacking == CONFIG_FILE else "")
    )


def read_config(path: Path, weight_files: Sequence[Path]) -> CheckpointConfig:
    """Read a checkpoint's config.json, and of a released one what the weights tell.

    Raises:
        CheckpointError: It is missing, damaged, or names no network.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        if isinstance(values, dict) and "model_type" in values:
            return _released_config(path, values, weight_files)
        config = CheckpointConfig(**values)
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


def _released_config(
    path: Path, values: dict[str, object], weight_files: Sequence[Path]
) -> CheckpointConfig:
    stored = map_tensors(weight_files)
    kind = str(values["model_type"])
    if kind not in RELEASED:
        looks = guess(stored) or "none that is known here"
        raise CheckpointError(
            f'"model_type" in {path} must be one of {", ".join(RELEASED)}; got {kind!r} with '
            f"weights that look like {looks}; give a checkpoint of a system that can be exported"
        )
    read = system_module(RELEASED[kind]).config_from_released
    config: CheckpointConfig = read(values, [name for name, _ in stored])
    return replace(config, license=card_license(path.with_name(CARD_FILE)) or config.license)


def card_license(card: Path) -> str:
    """Return the licence that a model card's front matter names, as spelled there, or ""."""
    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\r?\n(.*?)\n---", text, re.DOTALL)
    found = front and re.search(r"^license:\s*[\"']?([\w.+-]+)", front[1], re.MULTILINE)
    return found[1] if found else ""


def _compact(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.to(torch.float16) if value.ndim > 1 and value.is_floating_point() else value
