"""EVF-SAM (arXiv 2406.20076): BEiT-3 reads frame and words together and prompts SAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from ..bundle import Bundle
from ..engine import Engine, open_engines
from ..errors import UsageError
from ..geometry import Placement, back, fit
from ..live.memory_tracking import MEMORY_STAGES, MemoryTracker
from ..masks import Masks
from ..prompt import Prompt, words_of
from ..timing import Stopwatch
from ..tokenizer import Tokenizer, open_tokenizer

__all__ = ["EvfSam", "open_system"]

STAGES = ("image", "prompt", "mask")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """A frame and N prompts as the engines take them."""

    texts: tuple[str, ...]
    """The words of each prompt."""
    token_ids: np.ndarray
    """(N, longest) int64, padded on the right."""
    sam_view: np.ndarray
    """(1, 3, h, w) float32, the frame as SAM sees it."""
    beit_view: np.ndarray
    """(1, 3, h, w) float32, the frame as BEiT-3 sees it."""
    placement: Placement
    """Where the frame lies in SAM's view."""
    timings_ms: tuple[tuple[str, float], ...]
    """Milliseconds of each stage so far."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Inferred:
    """What the engines made of it."""

    texts: tuple[str, ...]
    """The words of each prompt."""
    logits_nhw: np.ndarray
    """(N, h, w) float32 over SAM's view."""
    placement: Placement
    """Where the frame lies in SAM's view."""
    timings_ms: tuple[tuple[str, float], ...]
    """Milliseconds of each stage so far."""


def open_system(bundle: Bundle, *, device: str, threads: int | None) -> EvfSam:
    """Open EVF-SAM's engines, those of its memory where the bundle has one, and its tokenizer."""
    held = {stage.name for stage in bundle.manifest.stages}
    stages = STAGES + MEMORY_STAGES if held.issuperset(MEMORY_STAGES) else STAGES
    return EvfSam(
        bundle,
        open_engines(bundle, stages, device=device, threads=threads),
        open_tokenizer(bundle.folder, bundle.manifest.tokenizer),
    )


class EvfSam:
    """One mask for each prompt; the frame is encoded once for all of them."""

    def __init__(self, bundle: Bundle, engines: Mapping[str, Engine], tokenizer: Tokenizer) -> None:
        """Take the engines of `STAGES`, and none or all of `MEMORY_STAGES`."""
        self._bundle = bundle
        self._sam, self._beit = bundle.view("sam"), bundle.view("beit")
        self._threshold = bundle.manifest.mask_threshold
        self._engines = engines
        self._tokenizer = tokenizer

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda:N"."""
        return self._engines["image"].device

    def check_prompts(self, prompts: tuple[Prompt, ...]) -> None:
        """Raise a PromptError if a prompt is too long, or has references or a history."""
        self._tokenizer.batch(words_of(prompts, "evf-sam"))

    def prepare(self, frame: np.ndarray, prompts: tuple[Prompt, ...]) -> _Prepared:
        """Turn a frame (H, W, 3) uint8 RGB into two views and prompts into token ids.

        Raises:
            FrameError: The frame is not such an array.
            PromptError: A prompt is too long, or has references or a history.
        """
        watch = Stopwatch()
        with watch.lap("words"):
            texts = words_of(prompts, "evf-sam")
            token_ids = self._tokenizer.batch(texts)
        with watch.lap("views"):
            sam_view, placement = fit(frame, self._sam)
            beit_view, _ = fit(frame, self._beit)
        return _Prepared(
            texts=texts,
            token_ids=token_ids,
            sam_view=sam_view,
            beit_view=beit_view,
            placement=placement,
            timings_ms=watch.laps_ms,
        )

    def infer(self, prepared: _Prepared) -> _Inferred:
        """Encode the frame, let BEiT-3 read the words beside it, and decode a mask for each.

        Raises:
            EngineError: A stage failed.
        """
        watch = Stopwatch()
        with watch.lap("image"):
            image = self._engines["image"].run({"image": prepared.sam_view})
        with watch.lap("prompt"):
            prompt = self._engines["prompt"].run(
                {"image": prepared.beit_view, "token_ids": prepared.token_ids}
            )
        with watch.lap("mask"):
            logits_nhw = self._engines["mask"].run({**image, **prompt})["logits"][:, 0]
        return _Inferred(
            texts=prepared.texts,
            logits_nhw=logits_nhw,
            placement=prepared.placement,
            timings_ms=prepared.timings_ms + watch.laps_ms,
        )

    def finish(self, inferred: _Inferred) -> Masks:
        """Bring the logits back to the frame's size and cut them: one mask for each prompt."""
        watch = Stopwatch()
        with watch.lap("back"):
            boolean, scores = back(
                inferred.logits_nhw, inferred.placement, threshold=self._threshold
            )
            masks = Masks.of(boolean, scores, inferred.texts)
        return replace(masks, timings_ms=inferred.timings_ms + watch.laps_ms)

    def segment(self, frame: np.ndarray, prompts: tuple[Prompt, ...]) -> Masks:
        """Take the three steps: one mask for each prompt, in their order; see each for errors."""
        return self.finish(self.infer(self.prepare(frame, prompts)))

    def answer(self, frame: np.ndarray, question: Prompt) -> NoReturn:
        """Refuse, as a UsageError: BEiT-3 writes no words."""
        raise UsageError(
            "questions that words answer must go to a system with a language model; "
            f"{self._bundle.folder.name} is of evf-sam; take a bundle of sam4mllm"
        )

    def open_tracker(self) -> MemoryTracker | None:
        """Return a tracker on its engines; None where they have no memory."""
        if not self._engines.keys() >= set(MEMORY_STAGES):
            return None
        return MemoryTracker(self._engines, self._sam, self._threshold)

    def shared_questions(self, frame: np.ndarray, prompt: Prompt) -> None:
        """Return None: BEiT-3 reads all words at once, and no language model is asked."""

    def reading(self, frame: np.ndarray, prompt: Prompt) -> tuple[()]:
        """Return nothing: no language model reads."""
        return ()

    def with_engines(self, wrap: Callable[[Engine], Engine]) -> EvfSam:
        """Return the same system on what `wrap` gives for each of its engines."""
        engines = {name: wrap(engine) for name, engine in self._engines.items()}
        return EvfSam(self._bundle, engines, self._tokenizer)

    def close(self) -> None:
        """Close its engines."""
        for engine in self._engines.values():
            engine.close()
