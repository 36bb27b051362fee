"""EVF-SAM (arXiv 2406.20076): BEiT-3 reads frame and words together and prompts SAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ..bundle import Bundle
from ..engine import Engine, open_engines
from ..errors import PromptError
from ..geometry import back, fit
from ..masks import Masks
from ..prompt import Prompt
from ..timing import Stopwatch
from ..tokenizer import Tokenizer, open_tokenizer

__all__ = ["EvfSam", "open_system"]

STAGES = ("image", "prompt", "mask")


def open_system(bundle: Bundle, *, device: str, threads: int | None) -> EvfSam:
    """Open EVF-SAM's three engines and its tokenizer."""
    return EvfSam(
        bundle,
        open_engines(bundle, STAGES, device=device, threads=threads),
        open_tokenizer(bundle.folder, bundle.manifest.tokenizer),
    )


class EvfSam:
    """One mask for each prompt; the frame is encoded once for all of them."""

    def __init__(self, bundle: Bundle, engines: Mapping[str, Engine], tokenizer: Tokenizer) -> None:
        """Take the engines "image", "prompt" and "mask"."""
        self._bundle = bundle
        self._sam, self._beit = bundle.view("sam"), bundle.view("beit")
        self._threshold = bundle.manifest.mask_threshold
        self._engines = engines
        self._tokenizer = tokenizer

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda:N"."""
        return self._engines["image"].device

    def segment(self, frame: np.ndarray, prompts: tuple[Prompt, ...]) -> Masks:
        """Segment a frame (H, W, 3) uint8 RGB: one mask for each prompt, in their order.

        Raises:
            FrameError: The frame is not such an array.
            PromptError: A prompt is too long, or has references or a history.
            EngineError: A stage failed.
        """
        watch = Stopwatch()
        with watch.lap("words"):
            texts = _texts(prompts)
            token_ids = self._tokenizer.batch(texts)
        with watch.lap("views"):
            sam_view, placement = fit(frame, self._sam)
            beit_view, _ = fit(frame, self._beit)
        with watch.lap("image"):
            image = self._engines["image"].run({"image": sam_view})
        with watch.lap("prompt"):
            prompt = self._engines["prompt"].run({"image": beit_view, "token_ids": token_ids})
        with watch.lap("mask"):
            mask = self._engines["mask"].run({**image, **prompt})
        with watch.lap("back"):
            boolean, scores = back(mask["logits"][:, 0], placement, threshold=self._threshold)
            masks = Masks.of(boolean, scores, texts)
        return replace(masks, timings_ms=watch.laps_ms)

    def with_engines(self, wrap: Callable[[Engine], Engine]) -> EvfSam:
        """Return the same system on what `wrap` gives for each of its engines."""
        engines = {name: wrap(engine) for name, engine in self._engines.items()}
        return EvfSam(self._bundle, engines, self._tokenizer)

    def close(self) -> None:
        """Close its engines."""
        for engine in self._engines.values():
            engine.close()


def _texts(prompts: tuple[Prompt, ...]) -> tuple[str, ...]:
    for prompt in prompts:
        if prompt.references or prompt.history:
            raise PromptError(
                "evf-sam reads words alone; got a prompt with references or a history: "
                f"{prompt.text!r}; leave them out"
            )
    return tuple(prompt.text for prompt in prompts)
