"""SentencePiece in plain code, as llama.cpp reads and writes it from a GGUF vocabulary."""

from __future__ import annotations

import re

from ..language.gguf_file import LanguageFile, TokenKind

__all__ = ["Pieces"]

_SPACE = "▁"
_MARKED = (TokenKind.CONTROL, TokenKind.UNKNOWN)


class Pieces:
    """Merges neighbors into the token of the best score until none is left (BPE with scores)."""

    def __init__(self, file: LanguageFile) -> None:
        """Load the vocabulary of `file`, whose tokenizer is "llama"."""
        self._pieces = file.pieces
        self._ids = {text: at for at, (text, _, _) in enumerate(self._pieces)}
        self._has_prefix = file.metadata.get("tokenizer.ggml.add_space_prefix", True)
        self._added = self._splitter(TokenKind.USER_DEFINED)
        self._special = self._splitter(TokenKind.USER_DEFINED, *_MARKED)

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """Encode a text; control tokens are read from it if `special`, added ones always."""
        ids: list[int] = []
        parts = (self._special if special else self._added).split(text)
        # The splitter's one group puts the tokens that it finds at the odd places.
        for at, part in enumerate(parts):
            if at % 2:
                ids.append(self._ids[part])
            elif part:
                ids += self._words(part)
        return ids

    def piece(self, token: int) -> bytes:
        """Return the UTF-8 of a token, or the byte that it stands for."""
        text, _, kind = self._pieces[token]
        if kind == TokenKind.BYTE:
            return bytes([int(text[3:5], 16)])
        return (text.replace(_SPACE, " ") if kind == TokenKind.NORMAL else text).encode()

    def _words(self, text: str) -> list[int]:
        symbols = list((" " * self._has_prefix + text).replace(" ", _SPACE))
        while True:
            pairs = [left + right for left, right in zip(symbols, symbols[1:], strict=False)]
            scores = [(self._score(pair), -at) for at, pair in enumerate(pairs)]
            best, at = max(scores, default=(None, 0))
            if best is None or best == float("-inf"):
                break
            symbols[-at : -at + 2] = [pairs[-at]]
        return [token for symbol in symbols for token in self._known(symbol)]

    def _known(self, symbol: str) -> list[int]:
        """Return a symbol's token, or those of its bytes."""
        if symbol in self._ids:
            return [self._ids[symbol]]
        return [self._ids[f"<0x{byte:02X}>"] for byte in symbol.encode(errors="replace")]

    def _score(self, text: str) -> float:
        return self._pieces[self._ids[text]][1] if text in self._ids else float("-inf")

    def _splitter(self, *kinds: TokenKind) -> re.Pattern[str]:
        texts = [text for text, _, kind in self._pieces if kind in kinds]
        texts.sort(key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, texts)) or '(?!)'})")
