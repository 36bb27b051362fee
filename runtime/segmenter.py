"""A bundle and a frame in, masks out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle import Bundle
from .errors import UnknownNameError
from .masks import Masks
from .prompt import Prompt, prompts_from
from .shelf import find_bundle
from .systems import SharedQuestions, System, open_system

if TYPE_CHECKING:
    from .live.tracking import Tracker

__all__ = ["Segmenter"]

_PHRASE = "{phrase}"


class Segmenter:
    """An open bundle; no answer depends on the frames before, and threads may share it.

    `segment` is `finish` of `infer` of `prepare`; a stream runs the three side by side, each on
    another frame. What one hands to the next is a value that nobody else looks into.
    """

    def __init__(self, bundle: Bundle, system: System, *, template: str | None = None) -> None:
        """Take an open system; `Segmenter.open` makes both."""
        self.bundle = bundle
        self._system = system
        self._before, _, self._behind = _template(bundle, template).partition(_PHRASE)

    @classmethod
    def open(
        cls,
        reference: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        template: str | None = None,
    ) -> Segmenter:
        """Open a bundle.

        Args:
            reference: Folder of the bundle, or its name in ./ or ./bundles/.
            device: "auto", "cpu", "cuda" or "cuda:N"; only "auto" may fall back to the CPU.
            threads: Threads of the CPU; None leaves one for each physical core.
            template: Name of the bundle's template that every prompt is put into; the masks keep
                the prompt's own words.

        Raises:
            BundleError: There is no such bundle, or it is damaged or incomplete.
            UnknownNameError: The bundle has no such template.
            SaymaskError: See `engine.open_engine`.
        """
        bundle = Bundle.read(find_bundle(reference))
        _template(bundle, template)  # before the engines, which may take seconds to open
        system = open_system(bundle, device=device, threads=threads)
        return cls(bundle, system, template=template)

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda:N"."""
        return self._system.device

    def check_prompts(self, prompts: str | Prompt | Sequence[str | Prompt]) -> None:
        """Find out whether prompts can be read, without a frame.

        Raises:
            PromptError: A prompt is empty or over-long, or has parts that the system cannot read.
        """
        self._system.check_prompts(self._read(prompts))

    def segment(self, frame: np.ndarray, prompts: str | Prompt | Sequence[str | Prompt]) -> Masks:
        """Segment a frame as the words say.

        Args:
            frame: (H, W, 3) uint8 RGB.
            prompts: One prompt, or several that share the frame's encoding.

        Returns:
            The masks at the frame's size, in the order of the prompts.

        Raises:
            FrameError: `frame` is not such an array.
            PromptError: A prompt is empty or over-long, or has parts that the system cannot read.
            EngineError: A stage failed.
        """
        return self.finish(self.infer(self.prepare(frame, prompts)))

    def prepare(self, frame: np.ndarray, prompts: str | Prompt | Sequence[str | Prompt]) -> Any:
        """Take the first step, everything before the engines; see `segment`.

        Raises:
            FrameError: `frame` is not such an array.
            PromptError: A prompt is empty or over-long, or has parts that the system cannot read.
        """
        return self._system.prepare(frame, self._read(prompts))

    def infer(self, prepared: Any) -> Any:
        """Take the second step: run the engines on what `prepare` returned.

        Raises:
            EngineError: A stage failed.
        """
        return self._system.infer(prepared)

    def finish(self, inferred: Any) -> Masks:
        """Take the third step: turn what `infer` returned into masks at the frame's size."""
        masks = self._system.finish(inferred)
        return replace(masks, labels=tuple(map(self._said, masks.labels)))

    def answer(self, frame: np.ndarray, question: str) -> str:
        """Answer a question about a frame in words.

        Args:
            frame: (H, W, 3) uint8 RGB.
            question: Such as "How many mugs are there?"; it is put into no template.

        Raises:
            UsageError: The bundle's system asks no language model.
            FrameError: `frame` is not such an array.
            PromptError: The question is empty or over-long.
            EngineError: A stage failed.
        """
        return self._system.answer(frame, Prompt(question))

    def open_tracker(self) -> Tracker | None:
        """Return the system's own tracker for one stream; None where it has none.

        It works on the same engines, so close the segmenter last. `tracking.open_tracker` has a
        tracker for every bundle.
        """
        return self._system.open_tracker()

    def shared_questions(self, frame: np.ndarray, prompt: str) -> SharedQuestions | None:
        """Return what the system asks a language model about a frame; see `segment` for errors."""
        (read,) = self._read(prompt)
        return self._system.shared_questions(frame, read)

    def close(self) -> None:
        """Give the engines' memory back."""
        self._system.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, prompts: str | Prompt | Sequence[str | Prompt]) -> tuple[Prompt, ...]:
        """Put each prompt into the template; `_said` takes it out again."""
        return tuple(
            replace(prompt, text=f"{self._before}{prompt.text}{self._behind}")
            for prompt in prompts_from(prompts)
        )

    def _said(self, text: str) -> str:
        return text.removeprefix(self._before).removesuffix(self._behind)


def _template(bundle: Bundle, name: str | None) -> str:
    templates = dict(bundle.manifest.templates)
    if name and name not in templates:
        raise UnknownNameError(f"the template of {bundle.folder.name}", name, templates)
    return templates[name] if name else _PHRASE
