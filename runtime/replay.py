"""A bundle's golden inputs through its engines, stage by stage, beside the stored FP32 outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from .bundle import Bundle
from .engine import open_engine
from .errors import BundleError
from .language.opening import open_language
from .language.parts import Part

__all__ = [
    "NEXT_TOKEN", "PART", "TOLERANCES", "Comparison", "Tolerance", "next_token_logits", "replay",
]  # fmt: skip

PART = "part"
"""What golden inputs of a language model are called before their number from 0."""
NEXT_TOKEN = "next_token"
"""What its golden output is called: the logits of what comes behind them."""
_MASK_LOGITS = "logits"
_END_TO_END = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far an output may be from FP32's."""

    relative: float
    """Most that |output - FP32| may be of |FP32|, both L2 norms over the whole output."""
    mask_iou: float
    """Least that the IoU of the masks may be, over all pixels and phrases."""


TOLERANCES = {
    "fp32": Tolerance(relative=1e-3, mask_iou=0.99),
    "fp16": Tolerance(relative=2e-2, mask_iou=0.98),
    "int8": Tolerance(relative=3e-1, mask_iou=0.85),
    "fp8": Tolerance(relative=3e-1, mask_iou=0.85),
    **dict.fromkeys(("f32", "f16", "bf16"), Tolerance(relative=2e-2, mask_iou=0.98)),
    "q8_0": Tolerance(relative=1e-1, mask_iou=0.85),
    **dict.fromkeys(("q6_k", "q5_k_m", "q4_k_m", "q4_0"), Tolerance(relative=5e-1, mask_iou=0.85)),
}
"""By what a stage's precision begins with. FP32 differs by the order of its sums; 8 bits and fewer
differ so much by design that only a broken engine is caught here, and accuracy is measured by
`eval`. A language model has no masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One output of one stage beside FP32's."""

    stage: str
    """Name of the stage, fed with golden inputs; "all" when each was fed with the one before."""
    output: str
    """Name of the output."""
    precision: str
    """Precision of the stage, or of the worst stage for "all"."""
    max_abs: float
    """Largest absolute difference."""
    relative: float
    """L2 norm of the difference divided by that of FP32's output."""
    cosine: float
    """Cosine of the angle between both outputs."""
    mask_iou: float | None
    """IoU of the masks, over all pixels and phrases; None where the output is no mask."""
    tolerance: Tolerance
    """What it is held to."""

    @property
    def is_within(self) -> bool:
        """True when it keeps its tolerance; an output that is not finite never does."""
        iou = 1.0 if self.mask_iou is None else self.mask_iou
        return self.relative <= self.tolerance.relative and iou >= self.tolerance.mask_iou


def replay(
    bundle: Bundle, *, device: str = "auto", threads: int | None = None
) -> Iterator[Comparison]:
    """Run every stage on its golden inputs, and all graphs one after the other.

    Args:
        bundle: An open bundle.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: Threads of the CPU; None leaves one for each physical core.

    Yields:
        One comparison for each output of each stage, then one for the masks of the whole chain.

    Raises:
        BundleError: The golden arrays lack one, or a stage has a precision without tolerance.
        SaymaskError: See `engine.open_engine`, `Engine.run` and `next_token_logits`.
    """
    golden = _Golden(bundle)
    passed_on: dict[str, np.ndarray] = {}
    masks: dict[str, np.ndarray] = {}
    for stage in bundle.manifest.stages:
        if stage.is_folder:
            continue  # Nothing here runs it.
        if not stage.is_graph:
            said = next_token_logits(
                bundle, stage.name, golden.parts(stage.name), device=device, threads=threads
            )
            yield golden.compare(stage.name, NEXT_TOKEN, said, stage.precision)
            continue
        with closing(open_engine(bundle, stage.name, device=device, threads=threads)) as engine:
            inputs = {tensor.name: golden.array(stage.name, tensor.name) for tensor in stage.inputs}
            # Engines of such a bundle compute in FP16, though its graphs are FP32.
            is_half = bundle.manifest.precision == "fp16"
            precision = "fp16" if is_half else stage.precision
            for output, result in engine.run(inputs).items():
                yield golden.compare(stage.name, output, result, precision)
            outputs = engine.run({name: passed_on.get(name, inputs[name]) for name in inputs})
        passed_on |= outputs
        if _MASK_LOGITS in outputs:
            masks[stage.name] = outputs[_MASK_LOGITS]
    for name, logits in masks.items():
        whole = golden.compare(name, _MASK_LOGITS, logits, bundle.manifest.precision)
        yield replace(whole, stage=_END_TO_END)


def next_token_logits(
    bundle: Bundle, stage: str, parts: Sequence[Part], *, device: str, threads: int | None
) -> np.ndarray:
    """Let a language model read; return the (V,) float32 logits of what comes next.

    Args:
        bundle: Where it lies.
        stage: Name of its stage.
        parts: Token ids and vectors.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: Threads of the CPU; None takes all cores that this process may use.

    Raises:
        SaymaskError: See `open_language` and `LanguageEngine.prefill`.
    """
    with open_language(
        bundle.folder / bundle.stage(stage).file,
        context_tokens=sum(map(len, parts)),
        device=device,
        threads=threads,
    ) as engine:
        return engine.prefill(parts).last.logits[0]


class _Golden:
    """The stored arrays of a bundle, to compare with."""

    def __init__(self, bundle: Bundle) -> None:
        self._arrays = bundle.golden()
        self._where = bundle.folder
        self._mask_threshold = bundle.manifest.mask_threshold

    def array(self, stage: str, tensor: str) -> np.ndarray:
        """Find a stored input or output."""
        key = f"{stage}/{tensor}"
        if key not in self._arrays:
            raise BundleError(
                f"the golden arrays of {self._where} must have {key!r}; "
                f"they have {', '.join(sorted(self._arrays))}; export the bundle again"
            )
        return self._arrays[key]

    def parts(self, stage: str) -> list[np.ndarray]:
        """Find what a language model reads."""
        count = sum(key.startswith(f"{stage}/{PART}") for key in self._arrays)
        return [self.array(stage, f"{PART}{number}") for number in range(max(count, 1))]

    def compare(self, stage: str, output: str, result: np.ndarray, precision: str) -> Comparison:
        """Measure how far a result is from the stored FP32 one."""
        family = precision.partition("-")[0]
        if family not in TOLERANCES:
            raise BundleError(
                f"the precision of stage {stage!r} must begin with {', '.join(TOLERANCES)}; "
                f"got {precision!r}; upgrade saymask"
            )
        expected = self.array(stage, output)
        if result.shape != expected.shape:
            raise BundleError(
                f"{output} of stage {stage!r} must have the golden shape {expected.shape}; "
                f"got {result.shape}; export the bundle again"
            )
        a, b = (array.astype(np.float64).ravel() for array in (result, expected))
        is_mask = output == _MASK_LOGITS
        return Comparison(
            stage=stage,
            output=output,
            precision=precision,
            max_abs=float(np.abs(a - b).max(initial=0.0)),
            relative=_ratio(_norm(a - b), _norm(b)),
            cosine=_ratio(float(a @ b), _norm(a) * _norm(b)),
            mask_iou=_iou(a > self._mask_threshold, b > self._mask_threshold) if is_mask else None,
            tolerance=TOLERANCES[family],
        )


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Divide what both masks cover by what one of them covers; two empty masks agree."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))


def _ratio(part: float, whole: float) -> float:
    """Divide; nothing of nothing is 0, something of nothing is infinite."""
    if whole:
        return part / whole
    return math.inf if part else 0.0
