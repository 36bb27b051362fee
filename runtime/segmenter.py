"""A bundle and a frame in, masks out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .bundle import Bundle
from .masks import Masks
from .prompt import Prompt, prompts_from
from .shelf import find_bundle
from .systems import System, open_system

__all__ = ["Segmenter"]


class Segmenter:
    """An open bundle; it keeps nothing from one frame to the next, so threads may share it."""

    def __init__(self, bundle: Bundle, system: System) -> None:
        """Take an open system; `Segmenter.open` makes both."""
        self.bundle = bundle
        self._system = system

    @classmethod
    def open(
        cls, reference: str | Path, *, device: str = "auto", threads: int | None = None
    ) -> Segmenter:
        """Open a bundle.

        Args:
            reference: Folder of the bundle, or its name in ./ or ./bundles/.
            device: "auto", "cpu", "cuda" or "cuda:N"; only "auto" may fall back to the CPU.
            threads: Threads of the CPU; None leaves one for each physical core.

        Raises:
            BundleError: There is no such bundle, or it is damaged or incomplete.
            SaymaskError: See `engine.open_engine`.
        """
        bundle = Bundle.read(find_bundle(reference))
        return cls(bundle, open_system(bundle, device=device, threads=threads))

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda:N"."""
        return self._system.device

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
        return self._system.segment(frame, prompts_from(prompts))

    def close(self) -> None:
        """Give the engines' memory back."""
        self._system.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
