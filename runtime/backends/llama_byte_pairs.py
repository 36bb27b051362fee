"""Byte pairs in plain code, as llama.cpp reads and writes LLaMA-3's from a GGUF vocabulary."""

from __future__ import annotations

import re
import sys
import unicodedata

from ..errors import EngineError
from ..language.gguf_file import LanguageFile, TokenKind
from .llama_pieces import Pieces

__all__ = ["BytePairs"]

_KIND = "llama-bpe"
_NEVER = sys.maxsize
_WORDS = re.compile(
    r"(?i:'(?:s|t|re|ve|m|ll|d))|[^\nA-Za-z1]?[A-Za-z]+|1{1,3}| ?[^\sA-Za-z1]+\n*|\s*\n+"
    r"|\s+(?!\S)|\s+"
)
"""LLaMA-3's words, in a text whose letters, numbers and spaces were made plain by `_plain`."""


class BytePairs(Pieces):
    """Merges neighbors within a word in the order that the merges were learned in."""

    def __init__(self, file: LanguageFile) -> None:
        """Load the vocabulary of `file`, whose tokenizer is "gpt2".

        Raises:
            EngineError: Its words are not told apart as LLaMA-3's are.
        """
        kind = file.metadata.get("tokenizer.ggml.pre")
        if kind != _KIND:
            raise EngineError(
                f"the reference tells words apart as {_KIND!r} does; {file.path} says {kind!r}; "
                "give token ids, or take backend llamacpp"
            )
        super().__init__(file)
        merges = file.metadata["tokenizer.ggml.merges"]
        self._ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self._letters = _letters()
        self._bytes = {letter: byte for byte, letter in enumerate(self._letters)}

    def piece(self, token: int) -> bytes:
        """Return the UTF-8 of a token, or the part of it that it stands for."""
        text, _, kind = self._pieces[token]
        if kind != TokenKind.NORMAL:
            return text.encode()
        return bytes(self._bytes[letter] for letter in text)

    def _words(self, text: str) -> list[int]:
        words = (text[slice(*word.span())] for word in _WORDS.finditer(_plain(text)))
        return [token for word in words for token in self._word(word)]

    def _word(self, word: str) -> list[int]:
        symbols = [self._letters[byte] for byte in word.encode(errors="replace")]
        whole = "".join(symbols)
        if whole in self._ids:
            # LLaMA-3's vocabulary holds words that no merges lead to.
            return [self._ids[whole]]
        while True:
            pairs = list(zip(symbols, symbols[1:], strict=False))
            found = [(self._ranks.get(pair, _NEVER), at) for at, pair in enumerate(pairs)]
            rank, at = min(found, default=(_NEVER, 0))
            if rank == _NEVER:
                return [self._ids[symbol] for symbol in symbols]
            symbols[at : at + 2] = ["".join(pairs[at])]


def _letters() -> list[str]:
    """Return what each byte is called: what Latin-1 prints stays, the others follow U+00FF."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]


def _plain(text: str) -> str:
    """Give each letter, number and space a stand-in of its kind that `re` can tell apart."""
    return "".join(map(_stand_in, text))


def _stand_in(letter: str) -> str:
    kind = unicodedata.category(letter)[0]
    if kind == "L":
        return letter if letter.isascii() else "a"
    if kind == "N":
        return "1"
    if letter in "\r\n":
        return "\n"
    # Python takes four control characters for spaces, which Unicode does not.
    if letter.isspace() and not "\x1c" <= letter <= "\x1f":
        return letter if letter == " " else "\t"
    return letter if letter == "'" else "."
