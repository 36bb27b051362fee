"""The miniature's own SentencePiece vocabulary, learned from what the world says."""

from __future__ import annotations

import io
from collections.abc import Iterable

from ..runtime.errors import require


def learn_sentencepiece(texts: Iterable[str], *, rows: int) -> bytes:
    """Learn a byte-pair model and return it as the bytes of a `.model` file.

    Args:
        texts: What the world says.
        rows: Rows of the word embedding, an upper bound of the ids that XLM-R's numbering
            (SentencePiece id + 1) makes of the pieces.
    """
    sentencepiece = require("sentencepiece", extra="cpu")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=rows - 1,
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
