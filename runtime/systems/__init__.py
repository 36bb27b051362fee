"""One file for each published system: which engines, in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..bundle import Bundle
from ..engine import Engine
from ..masks import Masks
from ..prompt import Prompt
from ..tables import module_from_table

if TYPE_CHECKING:
    from ..language import LanguageEngine
    from ..language.parts import Part
    from ..live.tracking import Tracker

__all__ = ["HOST_LAPS", "SYSTEMS", "SharedQuestions", "System", "Wrap", "open_system"]

SYSTEMS = {"evf-sam": "evf_sam", "sam4mllm": "sam4mllm"}
"""Names of systems and their modules here, imported when a bundle asks for one."""
HOST_LAPS = ("words", "views", "back")
"""Those of `Masks.timings_ms` that are no time in an engine or a language model."""


Wrap = Callable[[Engine], Engine]
"""Gives an engine of the same stage for an engine."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedQuestions:
    """Short questions after one long beginning, none of which hears another's answer."""

    engine: LanguageEngine
    """Who is asked."""
    beginning: tuple[Part, ...]
    """What comes before each of them."""
    questions: tuple[tuple[int, ...], ...]
    """Token ids of each."""
    answers: tuple[int, ...]
    """Tokens that they may be answered with."""


class System(Protocol):
    """The engines of one bundle; no answer depends on the frames before.

    A frame takes three steps, which threads may run side by side for frames that follow each other.
    What one step hands to the next is the system's own: a value that nobody else looks into.
    """

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda:N"."""
        ...

    def check_prompts(self, prompts: tuple[Prompt, ...]) -> None:
        """Raise a PromptError if it could not read the prompts."""
        ...

    def prepare(self, frame: np.ndarray, prompts: tuple[Prompt, ...]) -> Any:
        """Turn a frame (H, W, 3) uint8 RGB and prompts into what its engines take."""
        ...

    def infer(self, prepared: Any) -> Any:
        """Run its engines on what `prepare` returned."""
        ...

    def finish(self, inferred: Any) -> Masks:
        """Turn what `infer` returned into masks at the frame's size."""
        ...

    def segment(self, frame: np.ndarray, prompts: tuple[Prompt, ...]) -> Masks:
        """Take the three steps one after the other."""
        ...

    def answer(self, frame: np.ndarray, question: Prompt) -> str:
        """Answer a question about a frame in words.

        Raises:
            UsageError: It asks no language model.
        """
        ...

    def open_tracker(self) -> Tracker | None:
        """Return a tracker of its own, on its engines; None where it has none."""
        ...

    def shared_questions(self, frame: np.ndarray, prompt: Prompt) -> SharedQuestions | None:
        """Return the questions that it asks a language model about a frame; None of no model."""
        ...

    def reading(self, frame: np.ndarray, prompt: Prompt) -> tuple[Part, ...]:
        """Return what a language model reads and answers about a frame; nothing of no model."""
        ...

    def with_engines(self, wrap: Wrap) -> System:
        """Return the same system on what `wrap` gives for each of its engines."""
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...


def open_system(
    bundle: Bundle, *, device: str, threads: int | None, wrap: Wrap | None = None
) -> System:
    """Open the system that a bundle holds.

    Args:
        bundle: What to open.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: Threads of the CPU; None leaves one for each physical core.
        wrap: Is given each engine and returns what runs in its place: the same one watched, as
            calibration does, or another graph of the same stage.

    Raises:
        UnknownNameError: It is a system that this saymask does not run.
        SaymaskError: See `engine.open_engine`.
    """
    module = module_from_table("system", bundle.manifest.system, SYSTEMS, __name__)
    system = module.open_system(bundle, device=device, threads=threads)
    return system if wrap is None else system.with_engines(wrap)
