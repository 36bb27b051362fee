"""A repository of the Hugging Face hub as a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from ..runtime.errors import CheckpointError, require
from .weights import SUFFIXES

__all__ = ["bare_name", "fetch_snapshot", "is_hub_id", "release_names"]

COMPANIONS = ("*.json", "*.jsonl", "*.model", "*.spm", "README.md", "samples/*")
"""What a checkpoint may hold beside its weights."""


def is_hub_id(reference: str) -> bool:
    """Say whether `reference` could be "owner/name" or "owner/name@revision" on the hub."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?", reference) is not None


def fetch_snapshot(reference: str) -> Path:
    """Bring a repository into the hub's local cache, unless it is there already.

    huggingface_hub decides where the cache is, who asks, and whether the network may be used; it
    shows its own progress.

    Args:
        reference: "owner/name" or "owner/name@revision"; a branch means its newest commit.

    Returns:
        Folder of the snapshot, whose name is the commit.

    Raises:
        CheckpointError: It is neither on the hub nor in the cache.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", extra="hub")
    repository, _, revision = reference.partition("@")
    folder = Path()
    for weights in (f"*{suffix}" for suffix in SUFFIXES):  # Repositories hold them twice.
        try:
            folder = Path(
                hub.snapshot_download(
                    repository, revision=revision or None, allow_patterns=[*COMPANIONS, weights]
                )
            )
        except Exception as error:  # Its own, its transport's and the system's.
            raise CheckpointError(
                f"a checkpoint must be a folder here or a repository of the Hugging Face hub; "
                f"{reference} is no folder, and the hub gave none "
                f"({type(error).__name__}: {_first_line(error)}); correct the name, allow the "
                "network or copy the repository here and give its folder"
            ) from error
        if any(folder.glob(weights)):
            break
    return folder


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")


def release_names(name: str, folder: Path, origin: object = None) -> tuple[str, ...]:
    """Return the names that may tell which release a checkpoint is, the best first.

    Args:
        name: The checkpoint's own, "YxZhang/evf-sam2@main" say.
        folder: Where it lies, or a link to that; in the hub's cache, whose snapshots are named
            after commits, "models--OWNER--NAME" counts.
        origin: What its config says it was made from ("_name_or_path"); text, or it doesn't count.
    """
    names = [name.partition("@")[0]]
    for path in (folder.absolute(), folder.resolve()):
        names.append(path.name)
        if path.parent.name == "snapshots":
            names.append(path.parents[1].name)
    if isinstance(origin, str):
        names.append(origin.rstrip("/"))
    return tuple(dict.fromkeys(names))


def bare_name(name: str) -> str:
    """Return the last name of a hub id, a folder of the hub's cache or a path, in small letters."""
    return re.split(r"[/\\]|--", name.rstrip("/\\").casefold())[-1]
