"""Stretches of tokens and vectors: what may be read, and where a reader pauses for outputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..errors import PromptError
from .gguf_file import LanguageSpec

__all__ = ["Part", "as_array", "as_positions", "stretches"]

Part = Sequence[int] | np.ndarray
"""n token ids, or (n, width) float32 vectors that stand where n tokens would."""


def as_array(part: Part, spec: LanguageSpec) -> np.ndarray:
    """Turn a part into (n,) int32 token ids or (n, width) float32 vectors.

    Raises:
        PromptError: An id is not in the vocabulary, or a vector has another width or a number
            that is not finite.
    """
    try:
        array = np.asarray(part)
    except ValueError:
        # Lists of several lengths are no array; what follows refuses this one.
        array = np.array(part, object)
    if array.ndim == 2:
        return _vectors(array, spec.width)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise PromptError(
            f"a part must be a list of token ids or an array (n, {spec.width}) of vectors; got "
            f"{array.dtype} {array.shape}; encode words with the engine's tokens()"
        )
    outside = array[(array < 0) | (array >= spec.vocabulary)]
    if outside.size:
        raise PromptError(
            f"token ids must be from 0 to {spec.vocabulary - 1}; got {outside[0]}; encode words "
            "with this engine, not with another model's vocabulary"
        )
    return array.astype(np.int32)


def _vectors(array: np.ndarray, width: int) -> np.ndarray:
    if array.shape[1] != width or array.dtype.kind != "f":
        raise PromptError(
            f"vectors must be floats (n, {width}); got {array.dtype} {array.shape}; project them "
            "to the model's width first"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise PromptError(
            f"vectors must be finite; got {np.count_nonzero(~np.isfinite(array))} numbers that "
            "are not; look at the network that made them"
        )
    return array


def as_positions(at: Sequence[int], length: int) -> list[int]:
    """Turn positions among `length` tokens, negative ones from the end, into ones from 0.

    Raises:
        PromptError: One lies outside.
    """
    for position in at:
        if not -length <= position < length:
            raise PromptError(
                f"positions must be from {-length} to {length - 1} in {length} tokens; got "
                f"{position}; ask for what is there"
            )
    return [position % length for position in at]


def stretches(
    arrays: Sequence[np.ndarray], wanted: Collection[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut arrays where wanted positions begin and end; yield first positions and pieces."""
    start = 0
    for array in arrays:
        flags = np.array([start + at in wanted for at in range(len(array))], bool)
        cuts = np.flatnonzero(flags[1:] != flags[:-1]) + 1
        for piece in np.split(array, cuts):
            if len(piece):
                yield start, piece
            start += len(piece)
