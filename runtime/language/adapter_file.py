"""A LoRA kept in a GGUF file of its own: what it adds to which tensors of a language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import EngineError
from .gguf_file import LanguageFile

__all__ = ["AdapterFile"]

_SIDES = (".lora_a", ".lora_b")
_MISFITS_SHOWN = 8


class AdapterFile:
    """An adapter for one model, whose tensors it fits."""

    def __init__(self, path: Path, model: LanguageFile) -> None:
        """Read the header of `path` and hold it against the model that it is for.

        Raises:
            EngineError: It is missing, damaged or no LoRA, or for a model of another architecture
                or of other shapes.
        """
        if not path.is_file():
            raise EngineError(f"an adapter must be a GGUF file; there is none at {path}")
        self.path = path
        self._file = LanguageFile(path)
        facts = self._file.metadata
        kind = facts.get("general.type"), facts.get("adapter.type")
        if kind != ("adapter", "lora"):
            raise EngineError(
                f"{path} must be an adapter of type lora; it says {kind}; convert what PEFT saved"
            )
        down, up = _SIDES
        self._names = {it.removesuffix(down).removesuffix(up) for it in self._file.shapes}
        self._check_fit(model)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the header and the first 256 bytes of each tensor."""
        return self._file.fingerprint

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def change(self, name: str) -> np.ndarray | None:
        """Return what is added to a tensor, (rows, columns) float32, or None where nothing is.

        Raises:
            EngineError: Its format is not F32, F16, BF16 or Q8_0.
        """
        if name not in self._names:
            return None
        down, up = (self._file.tensor(name + side) for side in _SIDES)
        alpha = self._file.metadata.get("adapter.lora.alpha", 0.0)
        # As llama.cpp has it, 0 means that the factors hold the scale.
        return up @ down * np.float32(alpha / len(down) if alpha else 1)

    def _check_fit(self, model: LanguageFile) -> None:
        name = self._file.metadata.get("general.architecture")
        if name != model.spec.architecture:
            raise EngineError(
                f"the adapter {self.path} must be for {model.path}, a {model.spec.architecture}; "
                f"it is for a {name}; take the model that it was trained on"
            )
        misfits = [found for name in sorted(self._names) if (found := self._misfit(name, model))]
        if misfits or not self._names:
            raise EngineError(
                f"the adapter {self.path} must fit the matrices of {model.path}; {len(misfits)} of "
                f"{len(self._names)} do not: {'; '.join(misfits[:_MISFITS_SHOWN])}; take the model "
                "that it was trained on"
            )

    def _misfit(self, name: str, model: LanguageFile) -> str:
        """Say why a pair can't be added to the model's tensor, or nothing."""
        down, up = (self._file.shapes.get(name + side, ()) for side in _SIDES)
        shape = model.shapes.get(name)
        if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
            return f"{name} of {down} and {up}"
        if name == "token_embd.weight" or shape != (up[0], down[1]):
            return f"{name} {(up[0], down[1])}, where the model has {shape or 'none'}"
        return ""
