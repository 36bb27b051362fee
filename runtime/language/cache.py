"""Who takes how much of a cache of keys and values, where what is shared counts once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from threading import RLock

from ..errors import EngineError, PromptError
from .decoder import MAX_SEQUENCES

__all__ = ["Cells", "Place"]


class Place:
    """A sequence of a cache, given back when it is closed or its last holder forgets it."""

    def __init__(self, cells: Cells, runs: dict[int, int]) -> None:
        """Hold `runs`, names of runs of tokens and their lengths, of `cells`."""
        self.cells = cells
        self.runs = runs

    def close(self) -> None:
        """Give it back; closing twice does nothing."""
        self.cells.drop(self)

    def __del__(self) -> None:
        self.close()


class Cells:
    """The places of one cache, each a chain of runs of tokens that others may share."""

    def __init__(self, capacity: int, lock: RLock, drop: Callable[[int], None]) -> None:
        """Manage room for `capacity` tokens.

        Args:
            capacity: Tokens that the cache has room for.
            lock: Held while the cache changes.
            drop: Forgets the sequence of a number.
        """
        self._capacity = capacity
        self._lock = lock
        self._drop = drop
        self._sequences: dict[int, dict[int, int]] = {}
        self._names = count()

    @property
    def free(self) -> int:
        """Tokens that there is room for."""
        taken: dict[int, int] = {}
        for runs in self._sequences.values():
            taken |= runs
        return self._capacity - sum(taken.values())

    def claim(self, tokens: int, after: Place | None) -> Place:
        """Take a place for all tokens of `after`, which it shares, and so many further ones.

        Raises:
            EngineError: `after` is not open here.
            PromptError: There is no room, or no sequence.
        """
        shared = self._sequences[self.number(after)] if after else {}
        if tokens > self.free:
            raise PromptError(
                f"there must be room for {tokens} more tokens; {self.free} of {self._capacity} "
                "are free; close what is no longer needed, or open the engine with more "
                "context_tokens"
            )
        unused = (number for number in range(MAX_SEQUENCES) if number not in self._sequences)
        number = next(unused, None)
        if number is None:
            raise PromptError(
                f"prefixes and suffixes must be at most {MAX_SEQUENCES} at once, and all are "
                "taken; close what is no longer needed, or give fewer suffixes at once"
            )
        runs = {**shared, next(self._names): tokens}
        self._sequences[number] = runs
        return Place(self, runs)

    def number(self, place: Place) -> int:
        """Return the number of a place's sequence, or raise an EngineError if it has none here."""
        for number, runs in self._sequences.items():
            if runs is place.runs:
                return number
        raise EngineError("a prefix must be open and of this engine; this is not; read it again")

    def shrink(self, place: Place, tokens: int) -> None:
        """Give so many tokens at the end of a place back, which were never filled."""
        place.runs[max(place.runs)] -= tokens

    def drop(self, place: Place) -> None:
        """Forget a place, and what no other shares of it."""
        with self._lock:
            for number, runs in self._sequences.items():
                if runs is place.runs:
                    self._drop(number)
                    del self._sequences[number]
                    return

    def clear(self) -> None:
        """Forget all places, as the cache itself is given up."""
        self._sequences.clear()
