"""SentencePiece vocabularies of LLaMA and Vicuna, from a tokenizer.model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...runtime.errors import CheckpointError, require
from ...runtime.language.gguf_file import TokenKind
from .tokens import Added, Token, Words, added_token

__all__ = ["read_pieces"]

_BYTE_PAIRS = 2
"""SentencePiece's number of the model type that merges pairs by their scores."""


def read_pieces(path: Path, added: Mapping[int, Added]) -> Words:
    """Read a SentencePiece model that merges pairs and leaves a text as it is.

    llama.cpp puts the space of a text's begin behind each control and added token too, and before
    a space that is there, as sentencepiece does and transformers did before version 5; its later
    tokenizers put none in either place. Where a model was trained with those, read the stretches
    between controls one by one.

    Args:
        path: The file.
        added: What was added to it, by ids.

    Raises:
        CheckpointError: It is none, or llama.cpp would read texts differently, or what was added
            takes the place of another piece.
        MissingExtraError: sentencepiece or protobuf is not installed.
    """
    proto = require("sentencepiece.sentencepiece_model_pb2", extra="export")
    model = proto.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        rules = model.normalizer_spec
        found = model.trainer_spec.model_type, rules.name, rules.remove_extra_whitespaces
        if found != (_BYTE_PAIRS, "identity", False):
            raise ValueError(f"model type, normalizer and removal of spaces are {found}")
    except Exception as error:  # What protobuf raises is an exception of its own.
        raise CheckpointError(
            f"{path} must be a SentencePiece model of byte pairs that leaves texts as they are: "
            f"{error!r}; take the file that was released with the weights"
        ) from error
    tokens = {
        at: Token(text=piece.piece, kind=TokenKind(piece.type), score=piece.score)
        for at, piece in enumerate(model.pieces)
    }
    others = [at for at in added if at in tokens and tokens[at].text != added[at].text]
    if others:
        raise CheckpointError(
            f"what was added to {path} must come behind its {len(tokens)} pieces; "
            f"{added[others[0]].text!r} takes the place of {tokens[others[0]].text!r}; take "
            "tokenizer files of one model"
        )
    later = {at: added_token(token) for at, token in added.items() if at not in tokens}
    return Words(
        model="llama",
        pre="default",
        tokens=tokens | later,
        merges=(),
        has_prefix=rules.add_dummy_prefix,
    )
