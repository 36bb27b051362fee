"""What rounding a language model costs: how likely it finds given texts, how often it agrees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ...runtime.errors import PromptError
from ...runtime.language import LanguageEngine
from ...runtime.language.opening import open_language
from ...runtime.language.parts import Part, as_array
from ...runtime.language.sampling import log_softmax

__all__ = ["HEADER", "Likelihood", "compare_files"]

HEADER = ("file", "MiB", "mean log likelihood", "perplexity", "same token", "divergence")
"""What the columns of `Likelihood.row` are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """How a file does on given texts, beside the first one."""

    name: str
    """The file's name."""
    size_bytes: int
    """Size of its tensors."""
    mean_log: float
    """Mean natural logarithm of the probability of each token that was to come."""
    agreement: float
    """Share of positions whose likeliest next token is the first file's."""
    divergence: float
    """Mean Kullback-Leibler divergence of the next token from the first file's, in nats."""

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens the model is as unsure."""
        return math.exp(-self.mean_log)

    def row(self) -> tuple[object, ...]:
        """Return what `HEADER` names, rounded."""
        size_mib = round(self.size_bytes / (1 << 20), 1)
        logs = round(self.mean_log, 4), round(self.perplexity, 3)
        return (self.name, size_mib, *logs, round(self.agreement, 4), round(self.divergence, 5))


def compare_files(
    files: Sequence[Path],
    readings: Sequence[Sequence[Part]],
    *,
    device: str = "auto",
    threads: int | None = None,
    backend: str = "llamacpp",
) -> list[Likelihood]:
    """Let several files of one model read the same, one after the other.

    Every token that follows something counts, vectors do not; what the first file says is kept on
    disk meanwhile, 4 bytes for each token and word of the vocabulary.

    Args:
        files: GGUF files, the one that the others are compared with first.
        readings: Conversations, each of stretches of token ids and of (n, width) float32 vectors.
        device: See `open_language`, as for what follows.
        threads: Threads of the CPU.
        backend: What runs them.

    Returns:
        Their figures in the order of the files.

    Raises:
        PromptError: No token follows anything, or one is not of the model.
        SaymaskError: A file can't be opened or run; see `open_language`.
    """
    lengths = [sum(map(len, reading)) for reading in readings]
    with TemporaryDirectory() as folder:
        found = []
        for file in files:
            with open_language(
                file,
                context_tokens=max([1, *lengths]),
                device=device,
                threads=threads,
                backend=backend,
            ) as engine:
                found.append(_likelihood(file, engine, readings, Path(folder)))
    return found


def _likelihood(
    file: Path, engine: LanguageEngine, readings: Sequence[Sequence[Part]], kept: Path
) -> Likelihood:
    """Measure one file; the first one leaves its log probabilities in `kept` for the others."""
    logs, same, divergences = [], [], []
    for at, reading in enumerate(readings):
        targets, found = _read(engine, reading)
        path = kept / f"{at}.npy"
        if not path.exists():
            np.save(path, found)
        first = np.load(path)
        logs.append(np.take_along_axis(found, targets[:, None], 1)[:, 0])
        same.append(found.argmax(1) == first.argmax(1))
        divergences.append((np.exp(first) * (first - found)).sum(1))
    if not sum(map(len, logs)):
        raise PromptError(
            f"texts must have a token that follows something; got {len(readings)} without; give "
            "longer ones"
        )
    return Likelihood(
        name=file.name,
        size_bytes=engine.spec.weight_bytes,
        mean_log=float(np.concatenate(logs).mean()),
        agreement=float(np.concatenate(same).mean()),
        divergence=float(np.concatenate(divergences).mean()),
    )


def _read(engine: LanguageEngine, reading: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Return k tokens that follow something, and (k, V) float32 log probabilities before them."""
    arrays = [as_array(part, engine.spec) for part in reading]
    items = [array if array.ndim == 1 else np.full(len(array), -1) for array in arrays]
    following = np.concatenate([np.zeros(0, int), *items])[1:]
    at = np.flatnonzero(following >= 0)
    with engine.prefill(arrays, at=at.tolist()) as prefix:
        logs = log_softmax(prefix.outputs.logits).astype(np.float32)
    return following[at], logs
