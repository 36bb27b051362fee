"""Byte-pair vocabularies of LLaMA-3 and Qwen2, from a tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError
from ...runtime.language.gguf_file import TokenKind
from .tokens import Added, Token, Words, added_token, read_json

__all__ = ["read_byte_pairs"]

_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|"
    r" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {
    _CUTS.format(digits=r"\p{N}{1,3}"): ("llama-bpe", True),
    _CUTS.format(digits=r"\p{N}"): ("qwen2", False),
}
"""Expression that cuts a text into words -> llama.cpp's name, and whether a word that is a token
as a whole is never merged from its bytes, which llama.cpp settles by that name."""


def read_byte_pairs(path: Path, added: Mapping[int, Added]) -> Words:
    """Read a tokenizer.json of LLaMA-3's or Qwen2's kind.

    Qwen2's asks for Unicode's normal form C, which llama.cpp does not make: texts must come in it.

    Args:
        path: The file.
        added: What was added to it, by ids.

    Raises:
        CheckpointError: It is none, or llama.cpp would read texts differently.
    """
    content = read_json(path)
    try:
        pre, ignores_merges = PRE_TOKENIZERS[_expression(content)]
        model = content["model"]
        found = model["type"], bool(model.get("ignore_merges")), bool(model.get("byte_fallback"))
        if found != ("BPE", ignores_merges, False):
            raise ValueError(
                f"type, ignore_merges and byte_fallback are {found}, where {pre} has "
                f"{('BPE', ignores_merges, False)}"
            )
        normal = {
            at: Token(text=text, kind=TokenKind.NORMAL, score=0.0)
            for text, at in model["vocab"].items()
        }
        merges = tuple(_merge(pair) for pair in model["merges"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} must hold byte pairs of LLaMA-3's or Qwen2's kind: {error!r}; take the file "
            "that was released with the weights, with its tokenizer.model if it has one"
        ) from error
    tokens = normal | {at: added_token(token) for at, token in added.items()}
    return Words(model="gpt2", pre=pre, tokens=tokens, merges=merges, has_prefix=False)


def _expression(content: Mapping[str, Any]) -> str:
    """Return what cuts a text into words, if nothing else is done to the text but form C."""
    normalizer = content.get("normalizer") or {}
    if normalizer.get("type", "NFC") != "NFC":
        raise ValueError(f"its normalizer is {normalizer['type']}")
    steps = content["pre_tokenizer"].get("pretokenizers", [content["pre_tokenizer"]])
    kinds = [step["type"] for step in steps]
    if kinds != ["Split", "ByteLevel"] or steps[1].get("use_regex") or steps[1]["add_prefix_space"]:
        raise ValueError(f"it cuts texts by {kinds}, not by one expression before ByteLevel")
    return steps[0]["pattern"]["Regex"]


def _merge(pair: str | Sequence[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)
