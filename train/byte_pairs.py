"""The miniature language model's own byte pairs, cut as Llama-3 cuts text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..runtime.errors import UsageError, require
from ..runtime.systems.sam4mllm_text import NO, YES
from .numbers import NUMBERS

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
"""Llama-3's control tokens by their names; its reserved ones fill the vocabulary behind them."""
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama-3's pattern: no pair crosses what it cuts, and three digits stay together."""
REPEATS = 2000
"""How often the learner reads what must become one token, so that it wins its pairs."""


def learn_byte_pairs(texts: Iterable[str], *, rows: int) -> str:
    """Learn a byte-level vocabulary in which each three-digit number and verdict is one token.

    Args:
        texts: What users and models say; words they say more than once become few tokens.
        rows: Rows of the word embedding; each gets a token.

    Returns:
        The content of a `tokenizer.json` as the `tokenizers` library reads it. Nothing is added
        in front of a text.

    Raises:
        UsageError: `rows` is too small for the bytes, the numbers, the verdicts and the control
            tokens.
    """
    tokenizers = require("tokenizers", extra="train")
    learned = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=True))
    learned.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated"),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    learned.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=rows - len(SPECIAL_TOKENS),
        min_frequency=2,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learned.train_from_iterator(_with_wholes(texts), trainer)
    missing = [text for text in (*_numbers(), YES, NO) if learned.token_to_id(text) is None]
    if missing:
        raise UsageError(
            f"rows must hold the bytes, every three-digit number, {YES} and {NO}; {rows} leave out "
            f"{len(missing)} of these {NUMBERS + 2}, {missing[0]} first; give more rows"
        )
    spare = rows - len(SPECIAL_TOKENS) - learned.get_vocab_size()
    reserved = [f"<|reserved_special_token_{index}|>" for index in range(spare)]
    learned.add_special_tokens([*SPECIAL_TOKENS, *reserved])
    return learned.to_str(pretty=True)


def _numbers() -> list[str]:
    return [f"{number:03d}" for number in range(NUMBERS)]


def _with_wholes(texts: Iterable[str]) -> Iterator[str]:
    """Add what must become one token; verdicts one by one, as together they would be one too."""
    yield from texts
    numbers = "".join(_numbers())
    for _ in range(REPEATS):
        yield from (numbers, YES, NO)
