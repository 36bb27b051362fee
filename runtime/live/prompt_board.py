"""What is to be segmented now: written by whoever holds the microphone, read before every frame."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..prompt import Prompt, prompts_from

__all__ = ["PromptBoard"]


class PromptBoard:
    """The prompts of a running stream; threads may share it."""

    def __init__(self, prompts: str | Prompt | Sequence[str | Prompt]) -> None:
        """Start with one prompt or several; see `post`."""
        self._lock = threading.Lock()
        self._revision = 0
        self._prompts = prompts_from(prompts)

    def post(self, prompts: str | Prompt | Sequence[str | Prompt]) -> int:
        """Replace the prompts; they hold from the next frame on.

        Returns:
            The revision, one more than before.

        Raises:
            PromptError: There is none, or one is empty or no text; the old ones stay.
        """
        fresh = prompts_from(prompts)
        with self._lock:
            self._prompts = fresh
            self._revision += 1
            return self._revision

    def read(self) -> tuple[int, tuple[Prompt, ...]]:
        """Return the revision, from 0, and the prompts that go with it."""
        with self._lock:
            return self._revision, self._prompts
