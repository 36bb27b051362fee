"""What the user says of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import PromptError

__all__ = ["Prompt", "prompts_from", "words_of"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Words for one frame, with what they may point to."""

    text: str
    """The words, for example "the red mug left of the lamp"."""
    references: tuple[Any, ...] = ()
    """Masks of the frame that the words speak of, for systems that take them."""
    history: tuple[Any, ...] = ()
    """Earlier rounds of the conversation, for systems that hold one."""

    def __post_init__(self) -> None:
        """Refuse a prompt without words, or with bytes that were never decoded."""
        if not isinstance(self.text, str):
            raise PromptError(f"a prompt's text must be str; got {type(self.text).__name__}")
        if not self.text.strip():
            raise PromptError(f"a prompt must hold words; got {self.text!r}; say what to segment")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"a prompt must be text that UTF-8 can hold; got {self.text!r}; decode its bytes "
                "with the encoding they were written in"
            ) from error


def prompts_from(prompts: str | Prompt | Sequence[str | Prompt]) -> tuple[Prompt, ...]:
    """Make one or several prompts of what the user gave.

    Raises:
        PromptError: There is none, or one is empty or no text.
    """
    several = (prompts,) if isinstance(prompts, str | Prompt) else tuple(prompts)
    if not several:
        raise PromptError("at least one prompt must be given; got none; say what to segment")
    return tuple(prompt if isinstance(prompt, Prompt) else Prompt(prompt) for prompt in several)


def words_of(prompts: Sequence[Prompt], system: str) -> tuple[str, ...]:
    """Return the words of prompts for a system that reads nothing else.

    Raises:
        PromptError: A prompt has references or a history.
    """
    for prompt in prompts:
        if prompt.references or prompt.history:
            raise PromptError(
                f"{system} reads words alone; got a prompt with references or a history: "
                f"{prompt.text!r}; leave them out"
            )
    return tuple(prompt.text for prompt in prompts)
