"""Where a checkpoint's tensors lie: one file or several, safetensors or pickles, never run.

model.safetensors    or its shards with model.safetensors.index.json
pytorch_model.bin    or its shards with pytorch_model.bin.index.json
*.pth, *.pt          a state dict, or one wrapped as {"state_dict": ...} or {"model": ...}
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..runtime.errors import CheckpointError

__all__ = ["SUFFIXES", "WEIGHTS_FILE", "find_weight_files", "listed", "map_tensors"]

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_FILES = (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json", "pytorch_model.bin",
                 "pytorch_model.bin.index.json")  # fmt: skip
"""Usual names; the first that is there counts, as in transformers."""
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
"""Kinds of weight files, the best first."""
_SHARD = re.compile(r"(?P<stem>.+)-\d+-of-(?P<count>\d+)(?P<suffix>\.\w+)")
"""How transformers names the files of a checkpoint that is stored in several."""
WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts keep the state dict beside other things."""


def find_weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that hold a checkpoint's weights in the order of their names.

    Args:
        folder: One of `WEIGHTS_FILES` counts, or else the only file with one of `SUFFIXES`.

    Returns:
        One file, all shards of an index, or nothing where there are no weights.

    Raises:
        CheckpointError: An index lacks shards or is none, or which file counts is open.
    """
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return _shards(folder / name) if name.endswith(".json") else (folder / name,)
    found = sorted(p for p in folder.glob("*") if p.suffix in SUFFIXES and p.is_file())
    shards = [match for match in (_SHARD.fullmatch(path.name) for path in found) if match]
    if shards and int(shards[0]["count"]) > 1:
        index = f"{shards[0]['stem']}{shards[0]['suffix']}.index.json"
        raise CheckpointError(
            f"shards of a checkpoint must lie beside their index {index}; {folder} has only "
            f"{listed([match.string for match in shards])}; copy the index and all "
            f"{int(shards[0]['count'])} shards"
        )
    if len(found) > 1:
        raise CheckpointError(
            f"the weights of a checkpoint must be one file or have an index; {folder} has "
            f"{listed([path.name for path in found])}; name the right one {WEIGHTS_FILE} or "
            "pytorch_model.bin, or copy the index of the shards as well"
        )
    return tuple(found)


def map_tensors(files: Sequence[Path]) -> list[tuple[str, Tensor]]:
    """Return every tensor of `files` under its stored name; a name may come more than once.

    The tensors are views of the mapped files: nothing is read before it is used, and writing to
    them doesn't reach the disk. Pickles in torch's format before 1.6 are read at once instead.

    Raises:
        CheckpointError: A file is damaged, or it is a pickle that holds more than tensors.
    """
    return [
        pair
        for file in files
        for pair in (_of_safetensors if file.suffix == ".safetensors" else _of_pickle)(file)
    ]


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        if not shards or any(Path(name).name != name for name in shards):
            raise ValueError(f"it names {listed(shards) or 'no files'}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{index} must be a JSON object whose "weight_map" gives the file of each tensor in '
            f"the same folder: {error!r}; copy the checkpoint again"
        ) from error
    lost = [name for name in shards if not (index.parent / name).is_file()]
    if lost:
        raise CheckpointError(
            f"all {len(shards)} files that {index} names must lie beside it; {len(lost)} do not: "
            f"{listed(lost)}; copy them as well"
        )
    return tuple(index.parent / name for name in shards)


def _of_safetensors(file: Path) -> list[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return [(name, opened.get_tensor(name)) for name in opened.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} must be a whole safetensors file: {error}; copy the checkpoint again"
        ) from error


def _of_pickle(file: Path) -> list[tuple[str, Tensor]]:
    try:
        is_mappable = zipfile.is_zipfile(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_mappable)
    except Exception as error:  # A damaged pickle fails in many ways.
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{file} must hold tensors and nothing that runs; it asks for {code[1]}; take another "
            "copy, or save its state dict as safetensors where you trust it"
            if code
            else f"{file} must be a whole file of torch.save; it was cut short or is something "
            f"else ({type(error).__name__}); copy the checkpoint again"
        ) from error
    state = _unwrapped(content)
    if not (state and all(isinstance(value, Tensor) for value in state.values())):
        raise CheckpointError(
            f"{file} must hold a state dict, by itself or as one of {', '.join(WRAPPERS)}; it "
            f"holds {_described(content)}; save the state dict alone"
        )
    return list(state.items())


def _unwrapped(content: object) -> Mapping[str, Tensor]:
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            return content
        content = inner[0]
    return {}


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    kinds = [f"{name}: {type(value).__name__}" for name, value in content.items()]
    return listed(kinds) or "nothing"


def listed(words: Sequence[str]) -> str:
    """Join the first words of a list by commas, and say how many there are more."""
    return ", ".join(words[:8]) + (f" and {len(words) - 8} more" if len(words) > 8 else "")
