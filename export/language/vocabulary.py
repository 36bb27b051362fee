"""A checkpoint's vocabulary as GGUF holds it, one token for each row of the embedding table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError
from ...runtime.language.gguf_file import TokenKind
from .byte_pairs import read_byte_pairs
from .layout import Layout
from .pieces import read_pieces
from .tokens import Token, Words, read_added, read_json

__all__ = ["Vocabulary", "read_vocabulary"]

PIECES_FILE = "tokenizer.model"
BYTE_PAIRS_FILE = "tokenizer.json"
_SETTINGS_FILE = "tokenizer_config.json"
_TEMPLATE_FILE = "chat_template.jinja"
_USES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""What transformers calls tokens with a use, and what GGUF does."""
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """All that GGUF says about a vocabulary."""

    words: Words
    """The tokens, and how texts become such."""
    uses: Mapping[str, int]
    """Ids of tokens by the use that GGUF has for them."""
    adds_begin: bool | None
    """Whether a text is meant to begin with its bos token; None where nothing says it."""
    template: str
    """Jinja template of a conversation; empty where there is none."""

    def describe(self, writer: Any) -> None:
        """Add it to a gguf.GGUFWriter."""
        tokens = [self.words.tokens[at] for at in range(len(self.words.tokens))]
        writer.add_tokenizer_model(self.words.model)
        writer.add_tokenizer_pre(self.words.pre)
        writer.add_token_list([token.text for token in tokens])
        writer.add_token_types([int(token.kind) for token in tokens])
        if self.words.model == "llama":
            writer.add_token_scores([token.score for token in tokens])
            writer.add_add_space_prefix(self.words.has_prefix)
        else:
            writer.add_token_merges(list(self.words.merges))
        for use, at in self.uses.items():
            writer.add_uint32(f"tokenizer.ggml.{use}_token_id", at)
        if self.adds_begin is not None:
            writer.add_add_bos_token(self.adds_begin)
        writer.add_string("tokenizer.chat_template", self.template)


def read_vocabulary(folder: Path, layout: Layout, *, controls: Collection[str] = ()) -> Vocabulary:
    """Read a checkpoint folder's tokenizer.model, or else its tokenizer.json.

    Tokens that were added as special ones become controls, which a text spells out in vain; others
    are found in every text, also in what a user writes. Ids that no token has become unused ones.

    Args:
        folder: The checkpoint.
        layout: The model that it is for.
        controls: Texts of added tokens that become controls whatever the folder says, "[SEG]" say.

    Raises:
        CheckpointError: It is missing, damaged, of another kind or for another model.
        MissingExtraError: sentencepiece is not installed.
    """
    added = read_added(folder)
    if (folder / PIECES_FILE).is_file():
        words = read_pieces(folder / PIECES_FILE, added)
    elif (folder / BYTE_PAIRS_FILE).is_file():
        words = read_byte_pairs(folder / BYTE_PAIRS_FILE, added)
    else:
        raise CheckpointError(
            f"a language model comes with {PIECES_FILE} or {BYTE_PAIRS_FILE}; {folder} has "
            "neither; copy it as well"
        )
    _check(folder, layout, words, controls)
    settings = read_json(folder / _SETTINGS_FILE)
    return Vocabulary(
        words=replace(words, tokens=_completed(words, layout, controls)),
        uses=_find_uses(folder, layout, words, settings),
        adds_begin=settings.get("add_bos_token"),
        template=_template(folder, settings),
    )


def _check(folder: Path, layout: Layout, words: Words, controls: Collection[str]) -> None:
    texts = Counter(token.text for token in words.tokens.values())
    problems = [f"id {at} is no row" for at in words.tokens if not 0 <= at < layout.vocabulary]
    problems += [f"{text!r} comes twice" for text, times in texts.items() if times > 1]
    problems += [f"{text!r} is missing" for text in controls if text not in texts]
    if problems:
        raise CheckpointError(
            f"the vocabulary in {folder} must name each of the {layout.vocabulary} rows of the "
            f"embedding table at most once, and hold {list(controls)}: "
            f"{'; '.join(problems[:_SHOWN])}; take tokenizer files of this model"
        )


def _completed(words: Words, layout: Layout, controls: Collection[str]) -> dict[int, Token]:
    tokens = {
        at: replace(token, kind=TokenKind.CONTROL) if token.text in controls else token
        for at, token in words.tokens.items()
    }
    for at in range(layout.vocabulary):
        tokens.setdefault(at, Token(text=f"[PAD{at}]", kind=TokenKind.UNUSED, score=-1000.0))
    return tokens


def _find_uses(
    folder: Path, layout: Layout, words: Words, settings: Mapping[str, Any]
) -> dict[str, int]:
    """Return the ids of tokens with a use: by the tokenizer's settings, or else the config's."""
    ids = {token.text: at for at, token in words.tokens.items()}
    found = {"bos": layout.begin, "eos": layout.end}
    for use in _USES:
        entry = settings.get(f"{use}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if text is not None:
            found[use] = ids.get(text, -1)
    lost = [use for use, at in found.items() if at is not None and at not in words.tokens]
    if lost:
        raise CheckpointError(
            f"the tokens that {_SETTINGS_FILE} or config.json in {folder} names must be in the "
            f"vocabulary; {', '.join(lost)} are not; take tokenizer files of this model"
        )
    return {_USES[use]: at for use, at in found.items() if at is not None}


def _template(folder: Path, settings: Mapping[str, Any]) -> str:
    found = settings.get("chat_template")
    path = folder / _TEMPLATE_FILE
    if found is None and path.is_file():
        return path.read_text("utf-8")
    # Several templates are a list of names and templates, of which "default" is the usual one.
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found or ""
