"""What the user asks of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..calibration.modelopt import PYTHON
from ..calibration.observers import Observer
from ..calibration.quantize import OBSERVER, USUAL_TRANSFORMS
from ..calibration.ranges import MEMORY_MIB
from .language.stage import FORMATS as LANGUAGE_FORMATS

__all__ = ["FORCEABLE", "LANGUAGE_FORMATS", "PRECISIONS", "ExportRecipe"]

PRECISIONS = ("fp32", "fp16", "int8", "fp8", "int8-weights", "int4-weights")
FORCEABLE = ("fp32", "int8-static", "int8-dynamic")
"""Precisions of `calibration.quantize.Candidate` on the CPU."""
_LANGUAGE = {
    "fp32": "F16", "fp16": "F16", "int8": "Q8_0", "fp8": "Q8_0", "int8-weights": "Q8_0",
    "int4-weights": "Q4_K_M",
}  # fmt: skip
"""Precision -> what a language model is held in, if nothing else is asked for. Checkpoints come in
16 bits, so F16 rounds none of their weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecipe:
    """Everything that decides what a bundle will be."""

    system: str
    """Key of `systems.SYSTEMS`."""
    out: Path
    """Folder of the bundle."""
    checkpoint: str | None = None
    """Folder or name of a checkpoint; None is the system's miniature."""
    variant: str | None = None
    """What the weights must be, where the config does not tell or shall be held to it: a variant
    of the system, or its image encoder."""
    switches: tuple[tuple[str, str], ...] = ()
    """Pairs of a switch and its value, for example "preprocess"; the others are as released."""
    precision: str = "fp32"
    """One of `PRECISIONS`: the lowest that a stage may take."""
    language: str | None = None
    """One of `LANGUAGE_FORMATS` for the matrices of a system's language model; None takes the one
    that goes with the precision."""
    tensorrt_llm: str | None = None
    """One of `quantized_folder.ALGORITHMS`: the language model becomes a folder for TensorRT-LLM,
    which is not run here, so the whole one takes its part meanwhile; `language` is None then."""
    target: str = "cpu"
    """What the graphs are written for: a key of `runtime.engine.CPU_BACKENDS`."""
    samples: Path | None = None
    """Folder with pictures and phrases to calibrate and judge on; None is the checkpoint's own."""
    sample_limit: int = 48
    """Most pictures to take from it."""
    max_iou_drop: float = 1.0
    """Most points of gIoU, 0 to 100, that the bundle may lose against FP32."""
    calib: str | None = None
    """A folder, glob or video to take ranges from; None takes the samples."""
    calib_images: int = 16
    """Most frames to take from it."""
    calib_phrases: Path | None = None
    """A file with a phrase a line, for pictures that come without."""
    calib_mem_mib: int = MEMORY_MIB
    """What inner tensors may take while ranges are taken; weights and scratch come on top."""
    observer: Observer = OBSERVER
    """How a range is made of a tensor's values."""
    transforms: tuple[str, ...] = USUAL_TRANSFORMS
    """Some of `calibration.quantize.TRANSFORMS`: what is done to a graph before it is rounded."""
    weight_bits: int | None = None
    """Of INT8 weights on a CPU: 8, or 7 for x86 without VNNI, whose sums overflow else; None takes
    what this processor needs."""
    quantizer: str = "saymask"
    """Key of `quantizers.QUANTIZERS`: who writes the small numbers."""
    modelopt_python: Path = PYTHON
    """Interpreter of the environment that ModelOpt is installed in."""
    drops_slow: bool = False
    """Whether blocks that INT8 makes no quicker on this CPU go back to FP32."""
    plan: Path | None = None
    """A plan to follow instead of choosing; see `calibration.plan_file`."""
    work: Path | None = None
    """Folder to keep measurements in, so that an export that was interrupted goes on."""
    forced: str | None = None
    """One of `FORCEABLE`, which every stage that can takes whatever it costs; the others choose."""
    threads: int = 2
    """Threads of the CPU that segment the samples."""

    @property
    def language_format(self) -> str:
        """What a language model's matrices are held in while it runs here."""
        return self.language or _LANGUAGE["fp32" if self.tensorrt_llm else self.precision]
