"""A language engine: words and image vectors in; hidden states, logits and answers out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any

import numpy as np

from .. import machine
from ..errors import DeviceError, EngineError, PromptError, UsageError
from . import state as language_state
from .adapter_file import AdapterFile
from .cache import Cells, Place
from .decoder import Batch, Decoder
from .gguf_file import LanguageFile
from .parts import Part, as_array, as_positions, stretches
from .sampling import Sampling, choose, log_softmax
from .values import Answer, Outputs, Prefix

__all__ = ["Answer", "LanguageEngine", "Outputs", "Prefix"]


class LanguageEngine:
    """An open language model; calls from several threads wait for each other."""

    def __init__(
        self,
        decoder: Decoder,
        file: LanguageFile,
        *,
        device: str,
        context_tokens: int,
        cache_dtype: str,
        adapter: AdapterFile | None = None,
    ) -> None:
        """Wrap an open decoder of `file`'s model; see `opening.open_language`."""
        self.spec = file.spec
        self.device = device
        self.context_tokens = context_tokens
        self._file = file
        self._decoder: Decoder | None = decoder
        self._origin = language_state.Origin(
            model=file.spec.fingerprint + (f"+{adapter.fingerprint}" if adapter else ""),
            backend=decoder.name,
            cache_dtype=cache_dtype,
        )
        self._lock = RLock()
        self._cells = Cells(context_tokens, self._lock, decoder.drop)

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Encode a text; nothing is put before or after it.

        Args:
            text: Words.
            special: Whether control tokens that it spells out are read as such: for templates,
                never for what a user wrote.

        Raises:
            EngineError: The model has no vocabulary, or one that this backend can't read.
        """
        decoder = self._opened()
        if self.spec.tokenizer == "no_vocab":
            raise EngineError(
                f"{self._file.path} must hold a vocabulary, which it doesn't; give token ids"
            )
        return decoder.tokens(text, special=special)

    def token(self, piece: str) -> int:
        """Return the one token that `piece`, say "[SEG]", is, or raise a PromptError."""
        found = self.tokens(piece, special=True)
        if len(found) != 1:
            raise PromptError(
                f"{piece!r} must be one token of {self._file.path}; it is {len(found)}; take a "
                "model that was trained with it"
            )
        return found[0]

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens; the space in front of a SentencePiece word stays, also of the first."""
        decoder = self._opened()
        if self.spec.tokenizer == "no_vocab":
            raise EngineError(f"{self._file.path} must hold a vocabulary, which it doesn't")
        pieces = (decoder.piece(int(token)) for token in as_array(tokens, self.spec))
        return b"".join(pieces).decode(errors="replace")

    def embeddings(self, tokens: Sequence[int]) -> np.ndarray:
        """Look n tokens up in the embedding table, as (n, width) float32.

        Raises:
            EngineError: The table's format is not F32, F16, BF16 or Q8_0.
            PromptError: A token is not in the vocabulary.
        """
        return self._file.embeddings(as_array(tokens, self.spec))

    def prefill(
        self, parts: Sequence[Part], *, after: Prefix | None = None, at: Sequence[int] = ()
    ) -> Prefix:
        """Read tokens and vectors, in their order.

        Args:
            parts: Stretches of tokens and of vectors; together n.
            after: What they follow; it stays as it is.
            at: Positions from 0 to n - 1, or from -n, whose outputs are wanted; each that has no
                wanted neighbor costs a step of its own.

        Raises:
            DeviceError: The outputs do not fit into memory.
            EngineError: `after` is not open here, or the computation failed.
            PromptError: There is nothing to read, or no room; a part is out of range or not finite.
        """
        arrays = [as_array(part, self.spec) for part in parts]
        total = sum(map(len, arrays))
        if not total:
            raise PromptError("there must be a token or a vector to read; got none; give some")
        wanted = as_positions(at, total)
        self._check_outputs(len(wanted))
        with self._claimed(total, after) as place:
            start = after.tokens if after else 0
            read = sorted({*wanted, total - 1})
            outputs = self._read(arrays, place, start, read)
            return Prefix(
                tokens=start + total,
                outputs=outputs.take([read.index(position) for position in wanted]),
                last=outputs.take([-1]),
                place=place,
            )

    def extend(
        self,
        prefix: Prefix,
        suffixes: Sequence[Part],
        *,
        at: Sequence[int] = (-1,),
        has_hidden: bool = False,
    ) -> list[Outputs]:
        """Read several suffixes in one batch, each as if it alone followed the prefix.

        Args:
            prefix: What they share; it stays as it is.
            suffixes: All of tokens or all of vectors; their lengths may differ.
            at: Positions in each suffix whose outputs are wanted; negative ones from its end.
            has_hidden: Whether hidden states are wanted too, which takes the logits of every
                position, wanted or not.

        Raises:
            DeviceError: The outputs do not fit into memory.
            EngineError: The prefix is not open here, or the computation failed.
            PromptError: A suffix is empty, out of range or not finite, or there is no room.
        """
        arrays = [as_array(suffix, self.spec) for suffix in suffixes]
        kinds = {array.ndim for array in arrays}
        if len(kinds) != 1 or not all(map(len, arrays)):
            raise PromptError(
                "suffixes must be one or more, none empty, all of tokens or all of vectors; got "
                f"{len(arrays)} of {len(kinds)} kinds, the shortest of "
                f"{min(map(len, arrays), default=0)}; read each kind by itself"
            )
        wanted = [as_positions(at, len(array)) for array in arrays]
        self._check_outputs(sum(map(len, arrays if has_hidden else wanted)))
        with ExitStack() as stack:
            places = [stack.enter_context(self._claimed(len(it), prefix)) for it in arrays]
            try:
                return self._fan_out(arrays, places, prefix.tokens, wanted, has_hidden)
            finally:
                for place in places:
                    place.close()

    def generate(
        self,
        prefix: Prefix,
        *,
        stop: Sequence[int],
        max_tokens: int,
        sampling: Sampling | None = None,
        watch: Sequence[int] = (),
    ) -> Answer:
        """Write on from a prefix, one token after the other.

        Args:
            prefix: What the answer follows; it stays as it is.
            stop: Tokens that end the answer.
            max_tokens: Length at which it ends otherwise.
            sampling: How tokens are drawn; None takes the likeliest each time.
            watch: w tokens whose log probabilities are wanted at each step.

        Raises:
            EngineError: The prefix is not open here, or the computation failed.
            PromptError: There is no room for `max_tokens`, or a token is not in the vocabulary.
            UsageError: `max_tokens` is below 1.
        """
        if max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1; got {max_tokens}")
        sampling = sampling or Sampling()
        rng = np.random.default_rng(sampling.seed)
        watched, stops = as_array(watch, self.spec), as_array(stop, self.spec).tolist()
        tokens: list[int] = []
        steps: list[np.ndarray] = []
        last = prefix.last
        hidden: list[Any] = [last.hidden]
        with self._claimed(max_tokens, prefix) as place:
            while len(tokens) < max_tokens:
                logits = last.logits[0]
                token = choose(logits, sampling, rng)
                if token in stops:
                    break
                steps.append(log_softmax(logits)[[token, *watched]])
                step = [np.array([token], np.int32)]
                last = self._read(step, place, prefix.tokens + len(tokens), [0])
                hidden.append(last.hidden)
                tokens.append(token)
            self._cells.shrink(place, max_tokens - len(tokens))
            length = prefix.tokens + len(tokens)
            whole = Prefix(tokens=length, outputs=last.take([]), last=last, place=place)
        table = np.array(steps).reshape(len(tokens), 1 + len(watched))
        return Answer(
            tokens=tuple(tokens),
            log_probabilities=table[:, 0],
            watched=table[:, 1:],
            hidden=np.concatenate(hidden),
            is_complete=len(tokens) < max_tokens,
            prefix=whole,
        )

    def save(self, prefix: Prefix) -> bytes:
        """Turn a prefix into bytes, which `restore` takes in this or another process.

        Raises:
            EngineError: The prefix is not open here.
        """
        with self._lock:
            cache = self._opened().save(self._cells.number(prefix.place))
        return language_state.pack(self._origin, prefix.tokens, prefix.last, cache)

    def restore(self, state: bytes) -> Prefix:
        """Turn what `save` returned into a prefix, without its `outputs`.

        Raises:
            EngineError: It is damaged, or comes from another model, backend or type of cache.
            PromptError: There is no room for it.
        """
        tokens, last, cache = language_state.unpack(state, self._origin)
        with self._claimed(tokens, None) as place:
            self._opened().restore(self._cells.number(place), cache)
            return Prefix(tokens=tokens, outputs=last.take([]), last=last, place=place)

    def close(self) -> None:
        """Give its memory back, and all prefixes; it cannot run any more."""
        with self._lock:
            if self._decoder:
                self._cells.clear()
                self._decoder.close()
                self._decoder = None

    def __enter__(self) -> LanguageEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> Decoder:
        if self._decoder is None:
            raise EngineError(f"the engine of {self._file.path} was closed; open it again")
        return self._decoder

    @contextmanager
    def _claimed(self, tokens: int, after: Prefix | None) -> Iterator[Place]:
        """Take a place behind `after`, and give it back if what is done with it fails."""
        with self._lock:
            decoder = self._opened()
            length = tokens + (after.tokens if after else 0)
            if length > self.spec.trained_tokens:
                raise PromptError(
                    f"a text must have at most {self.spec.trained_tokens} tokens, which "
                    f"{self._file.path} was trained for; got {length}; leave some out"
                )
            place = self._cells.claim(tokens, after.place if after else None)
            try:
                if after:
                    numbers = self._cells.number(after.place), self._cells.number(place)
                    decoder.copy(*numbers)
                yield place
            except BaseException:
                place.close()
                raise

    def _read(
        self, arrays: Sequence[np.ndarray], place: Place, start: int, wanted: Sequence[int]
    ) -> Outputs:
        """Read arrays from position `start` on; return the outputs of wanted positions in them.

        A backend that returns hidden states computes the logits of all of a batch, so that wanted
        positions go by themselves.
        """
        number = self._cells.number(place)
        found: list[Outputs] = []
        for first, inputs in stretches(arrays, wanted):
            positions = start + np.arange(first, first + len(inputs), dtype=np.int32)
            is_wanted = first in wanted
            outputs = self._decode(
                Batch(
                    inputs=inputs,
                    positions=positions,
                    sequences=np.full(len(inputs), number, np.int32),
                    wanted=np.full(len(inputs), is_wanted),
                    has_hidden=is_wanted,
                )
            )
            if is_wanted:
                found.append(outputs)
        hidden: list[Any] = [outputs.hidden for outputs in found]
        logits = [outputs.logits for outputs in found]
        return Outputs(hidden=np.concatenate(hidden), logits=np.concatenate(logits))

    def _fan_out(
        self,
        arrays: Sequence[np.ndarray],
        places: Sequence[Place],
        start: int,
        wanted: Sequence[Sequence[int]],
        has_hidden: bool,
    ) -> list[Outputs]:
        """Read arrays in one batch, each from position `start` on and in a place of its own."""
        lengths = [len(array) for array in arrays]
        numbers = [self._cells.number(place) for place in places]
        positions = [np.arange(length, dtype=np.int32) for length in lengths]
        flags = [np.isin(those, at) for those, at in zip(positions, wanted, strict=True)]
        outputs = self._decode(
            Batch(
                inputs=np.concatenate(arrays),
                positions=start + np.concatenate(positions),
                sequences=np.repeat(np.array(numbers, np.int32), lengths),
                wanted=np.concatenate(flags),
                has_hidden=has_hidden,
            )
        )
        rows = iter(range(len(outputs.logits)))
        of_position = [{at: next(rows) for at in np.flatnonzero(flag).tolist()} for flag in flags]
        return [
            outputs.take([those[position] for position in order])
            for those, order in zip(of_position, wanted, strict=True)
        ]

    def _decode(self, batch: Batch) -> Outputs:
        hidden, logits = self._opened().decode(batch)
        if not np.isfinite(logits).all():
            raise EngineError(
                f"logits must be finite; {self._file.path} gives others: its weights are damaged, "
                "or its numbers too large for its format; take cache_dtype float32 or another file"
            )
        return Outputs(hidden=hidden, logits=logits)

    def _check_outputs(self, rows: int) -> None:
        """Refuse outputs that would not fit into memory, once in the library and once here."""
        needed = 2 * 4 * rows * (self.spec.vocabulary + self.spec.width)
        memory = machine.memory_bytes()
        if memory and needed > memory["available"]:
            raise DeviceError(
                f"outputs at {rows} positions need {needed >> 20} MiB; "
                f"{memory['available'] >> 20} MiB are free; ask for fewer at once"
            )
