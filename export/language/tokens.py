"""Tokens of a vocabulary, and the files beside it that say which were added later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError
from ...runtime.language.gguf_file import TokenKind

__all__ = ["Added", "Token", "Words", "added_token", "read_added", "read_json"]

_ADDED_SCORE = -1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of a vocabulary."""

    text: str
    """What it is called; letters stand for bytes where a byte-pair vocabulary was trained."""
    kind: TokenKind
    """What it stands for."""
    score: float
    """SentencePiece merges the pair of the highest score first; byte pairs have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A vocabulary as its own file has it, with what was added."""

    model: str
    """One of `gguf_file.TOKENIZERS`."""
    pre: str
    """llama.cpp's name of the expression that cuts a text into words."""
    tokens: Mapping[int, Token]
    """By their ids, which may have gaps."""
    merges: tuple[str, ...]
    """Pairs that byte-pair encoding merges, in their order, "a b"."""
    has_prefix: bool
    """Whether SentencePiece puts a space before a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A token that was added to a trained vocabulary."""

    text: str
    """As texts spell it."""
    is_special: bool
    """Whether it stands for something outside the words."""


def added_token(added: Added) -> Token:
    """Return an added token as GGUF has it."""
    kind = TokenKind.CONTROL if added.is_special else TokenKind.USER_DEFINED
    return Token(text=added.text, kind=kind, score=_ADDED_SCORE)


def read_added(folder: Path) -> dict[int, Added]:
    """Return the tokens that were added to the vocabulary in `folder`, by their ids.

    Raises:
        CheckpointError: A file is damaged.
    """
    try:
        old = read_json(folder / "added_tokens.json")
        found = {int(at): Added(text=text, is_special=False) for text, at in old.items()}
        settings = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
        listed = read_json(folder / "tokenizer.json").get("added_tokens", [])
        for at, entry in (*settings.items(), *((entry["id"], entry) for entry in listed)):
            is_special = bool(entry.get("special", False))
            found[int(at)] = Added(text=entry["content"], is_special=is_special)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the added tokens in {folder} must have ids and contents: {error!r}; copy the "
            "tokenizer's files again"
        ) from error
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from a JSON file; one that isn't there is empty.

    Raises:
        CheckpointError: It holds something else.
    """
    try:
        found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except ValueError as error:
        raise CheckpointError(f"{path} must be a JSON object: {error}; copy it again") from error
    return found
