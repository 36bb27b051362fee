"""What a bundle is, field by field: stages, views, words, precision and measured quality."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

SCHEMA_VERSION = 3
"""Version of `bundle.json`; a reader refuses any other."""
PLAN_FILE = "plan.json"
"""In the bundle: what each weighted node computes in, and why."""
PLAN_VERSION = 1
"""Version of `plan.json`; a reader refuses any other."""
REPORT_FILE = "report.json"
"""In the bundle, if small numbers are in it: what they cost and gain."""

WEIGHT_BITS = "weight_bits"
"""In the metadata of a graph for a CPU: how many bits its INT8 weights have, "7" or "8"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A named input or output of a stage."""

    name: str
    """Name in the graph."""
    dtype: str
    """NumPy dtype name, for example "float32" or "int64"."""
    shape: tuple[int | str, ...]
    """Extent of each axis; a string names an axis that varies from call to call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One graph of the system, run as one engine."""

    name: str
    """Noun of the paper's figure, for example "image", "prompt", "language" or "mask"."""
    file: str
    """Path inside the bundle, with forward slashes: of a graph, of a GGUF language model, or of a
    folder with one for TensorRT-LLM."""
    inputs: tuple[TensorSpec, ...]
    """Inputs in the graph's order; none for a language model, which reads words and vectors."""
    outputs: tuple[TensorSpec, ...]
    """Outputs in the graph's order; none for a language model."""
    precision: str
    """What it was built in, for example "fp32", "int8-static", "int8-dynamic" or "q4_k_m"."""
    reason: str
    """Why this precision was taken, with the measured figures."""

    @property
    def is_graph(self) -> bool:
        """Whether an `engine.Engine` runs it; otherwise a `language.LanguageEngine` does."""
        return PurePosixPath(self.file).suffix == ".onnx"

    @property
    def is_folder(self) -> bool:
        """Whether it is a `language.quantized_folder`, which saymask does not run."""
        return not PurePosixPath(self.file).suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSpec:
    """How a frame becomes one model input; a system may look at a frame through several views."""

    name: str
    """Name of the view, for example "sam" or "beit"."""
    size_hw: tuple[int, int]
    """Height and width of the model input in pixels."""
    fit: str
    """"pad" keeps the aspect and pads right and below; "stretch" scales both sides freely; "fill"
    keeps the aspect, then stretches the shorter side with bilinear floats."""
    interpolation: str
    """"bilinear" or "bicubic" (a = -0.75, antialiased -0.5), with half-pixel centres."""
    is_antialiased: bool
    """True to widen the filter when the frame is scaled down."""
    rounds_to_uint8: bool
    """True to resize in uint8 as Pillow (antialiased) or torch (not) does, False in floats."""
    mean_rgb: tuple[float, float, float]
    """Subtracted from the 0 to 255 pixel values."""
    std_rgb: tuple[float, float, float]
    """Divides the difference. Padding is zero after this."""
    canvas_hw: tuple[int, int]
    """Height and width in pixels to which a padded view's logits are scaled before the padding is
    cropped; those of other views go to the frame's size directly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSpec:
    """How words become token ids."""

    kind: str
    """Key of `tokenizer.TOKENIZERS`, for example "xlm-roberta"."""
    file: str
    """Path of the vocabulary inside the bundle."""
    max_tokens: int
    """Longest accepted prompt in tokens, with its begin and end marks."""
    rows: int
    """Rows of the network's word embedding; a token's id must be below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """Where the weights come from."""

    name: str
    """Name of the checkpoint, for example "evf-sam-mini"."""
    sha256: str
    """SHA-256 of the checkpoint's weight file, as hexadecimal."""
    license: str
    """SPDX identifier of the weights' licence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """One measured figure of this bundle beside FP32's on the same data."""

    task: str
    """Task of the phrases, for example "single"."""
    metric: str
    """"gIoU" or "cIoU", in [0, 1]."""
    data: str
    """Where the phrases come from, for example "world:val"."""
    phrase_count: int
    """How many phrases were scored."""
    fp32: float
    """The metric of the FP32 graphs."""
    this: float
    """The metric of this bundle's graphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One candidate of one stage, timed side by side with the others on the exporting machine."""

    stage: str
    """Name of the stage."""
    precision: str
    """Candidate's precision."""
    median_ms: float
    """Median of the interleaved runs in milliseconds."""
    is_taken: bool
    """True for the candidate that the bundle holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All of `bundle.json`."""

    schema_version: int
    """`SCHEMA_VERSION` of the writer."""
    system: str
    """Key of `systems.SYSTEMS`, for example "evf-sam"."""
    variant: str
    """Size of the networks, for example "mini"."""
    precision: str
    """What was asked for, for example "int8"; with "fp16" the graphs are FP32, and engines halve
    them."""
    target: str
    """What the graphs are written for: a key of `engine.CPU_BACKENDS`."""
    stages: tuple[StageSpec, ...]
    """In the order they run."""
    views: tuple[ViewSpec, ...]
    """In no particular order; names are unique."""
    tokenizer: TokenizerSpec | None
    """How words become token ids; None where the language model's file says so itself."""
    settings: tuple[tuple[str, str], ...]
    """Pairs of a name and a value as text: what the system's own protocol is set to."""
    templates: tuple[tuple[str, str], ...]
    """Pairs of a prompt template's name and its text with "{phrase}", for example "semantic"."""
    mask_threshold: float
    """A pixel belongs to the mask when its logit is above this."""
    source: SourceSpec
    """Where the weights come from."""
    quality: tuple[QualityRow, ...]
    """Measured quality; empty when it was not measured."""
    latency: tuple[LatencyRow, ...]
    """Measured candidates of each stage; empty when nothing was compared."""
    machine: str
    """Processor the latencies were measured on."""
    files: tuple[tuple[str, str], ...]
    """Pairs of a file's path inside the bundle and its SHA-256; filled in by the writer."""
