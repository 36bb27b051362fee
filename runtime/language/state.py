"""A conversation as bytes: what was read, by which model, and its keys and values."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass, fields

import numpy as np

from ..errors import EngineError
from .values import Outputs

__all__ = ["Origin", "pack", "unpack"]

_SCHEMA = "saymask language state 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a state comes from; it fits only there."""

    schema: str = _SCHEMA
    """What these bytes are."""
    model: str
    """`LanguageSpec.fingerprint`, and that of an adapter behind a "+"."""
    backend: str
    """`Decoder.name`."""
    cache_dtype: str
    """Key of `language.CACHE_DTYPES`."""


def pack(origin: Origin, tokens: int, outputs: Outputs, cache: bytes) -> bytes:
    """Write a state of so many tokens, with the outputs at the last of them."""
    head = json.dumps({**asdict(origin), "tokens": tokens})
    stream = io.BytesIO()
    np.savez(
        stream,
        head=np.array(head),
        hidden=np.asarray(outputs.hidden),
        logits=outputs.logits,
        cache=np.frombuffer(cache, np.uint8),
    )
    return stream.getvalue()


def unpack(data: bytes, origin: Origin) -> tuple[int, Outputs, bytes]:
    """Read what `pack` wrote: tokens, outputs and the cache.

    Raises:
        EngineError: It is damaged, or comes from elsewhere than `origin`.
    """
    try:
        with np.load(io.BytesIO(data)) as file:
            head = json.loads(str(file["head"]))
            outputs = Outputs(hidden=file["hidden"], logits=file["logits"])
            cache = file["cache"].tobytes()
        tokens = int(head["tokens"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise EngineError(
            f"a state must be what save returned; this is not: {error}; read the conversation again"
        ) from error
    for field in fields(origin):
        expected, found = getattr(origin, field.name), head.get(field.name)
        if found != expected:
            raise EngineError(
                f"a state must fit the engine; its {field.name} is {found!r} and the engine's "
                f"{expected!r}; restore it where it was saved, or read the conversation again"
            )
    return tokens, outputs, cache
