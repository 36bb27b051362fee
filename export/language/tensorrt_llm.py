"""A language model's Hugging Face folder, quantized by NVIDIA ModelOpt for TensorRT-LLM.

TensorRT Edge-LLM reads the same folders; `runtime.language.tensorrt_llm` says who runs which.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...calibration import modelopt
from ...calibration.other_python import run_job
from ...runtime.errors import CheckpointError, EngineError, UnknownNameError, UsageError
from ...runtime.language.parts import Part
from ...runtime.language.quantized_folder import (
    ALGORITHMS,
    CONFIG_FILE,
    TOKENIZER_FILES,
    LanguageSizes,
    check_quantized_folder,
)
from ...runtime.replace import replacing
from ..weights import SUFFIXES
from .tensorrt_llm_job import LOSS_FILE, MISSING

__all__ = ["COMMANDS", "LIBRARY", "Loss", "quantize_language"]

COMMANDS = (
    *modelopt.COMMANDS,
    f"{modelopt.ENVIRONMENT}/bin/pip install transformers==5.14.1",
)
"""What makes the environment, the same as for graphs and what reads language models besides."""
LIBRARY = "ModelOpt with transformers"
"""What the environment must have, in messages."""

_MISFITS_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What it costs, measured with inputs and weights rounded as the folder says."""

    before: float
    """Perplexity of the texts' tokens in FP16."""
    after: float
    """The same of the quantized model."""
    agreement: float
    """Share of positions whose likeliest next token stays."""


def quantize_language(
    source: Path,
    target: Path,
    texts: Sequence[Sequence[Part]],
    *,
    precision: str,
    python: Path,
    say: Callable[[str], None] = lambda line: None,
) -> Loss:
    """Write a language model's quantized folder, all or nothing.

    ModelOpt holds the whole model in FP16, on a GPU where there is one, and what it writes besides.

    Args:
        source: Its Hugging Face folder: config.json of a Llama or Qwen2 network, safetensors with
            any LoRA merged, and the tokenizer's files, which are copied.
        target: Where the quantized folder goes; one that is there already is replaced.
        texts: What ranges are taken from, as the model will meet it: each a text in parts of
            token ids and, for images, (n, width) float vectors, ids at its end.
        precision: Key of `ALGORITHMS`.
        python: Interpreter of the environment that `COMMANDS` make.
        say: Is told before it begins.

    Returns:
        What it costs on these texts.

    Raises:
        CheckpointError: `source` is incomplete, of another network, or has sizes that the
            precision's kernels cannot compute.
        EngineError: ModelOpt fails, or what it wrote does not fit.
        MissingExtraError: There is no such interpreter, or it has no ModelOpt.
        OSError: The folder cannot be written.
        UnknownNameError: There is no such precision.
        UsageError: There is no text, one does not end in a token that follows something, or a part
            is neither ids nor vectors of the model.
    """
    if precision not in ALGORITHMS:
        raise UnknownNameError("precision", precision, ALGORITHMS)
    config, sizes = _read_source(source, precision)
    arrays = [[_array(part, sizes) for part in text] for text in texts]
    if not arrays or not all(map(_ends_in_a_token, arrays)):
        raise UsageError(
            "ModelOpt must see texts, each with a token at its end and something before that; got "
            f"{len(arrays)} texts; give prompts and answers like those the model will meet"
        )
    say(f"modelopt quantizes the language model to {precision} over {len(arrays)} texts")
    with replacing(target) as partial:
        loss = _run(source, partial, arrays, precision, python)
        _complete(partial, source, config)
        if misfits := check_quantized_folder(partial):
            raise EngineError(
                f"ModelOpt must write what TensorRT-LLM reads; {len(misfits)} things are not so: "
                f"{'; '.join(misfits[:_MISFITS_SHOWN])}; make its environment again with: "
                f"{'; '.join(COMMANDS)}"
            )
    return loss


def _run(
    source: Path, target: Path, texts: list[list[np.ndarray]], precision: str, python: Path
) -> Loss:
    """Run the job in ModelOpt's Python."""
    with tempfile.TemporaryDirectory() as folder:
        for number, parts in enumerate(texts):
            np.savez(Path(folder) / f"{number:06d}.npz", *parts)
        run_job(
            Path(__file__).with_name("tensorrt_llm_job.py"),
            [str(source), folder, str(target), precision],
            python=python,
            result=Path(folder) / LOSS_FILE,
            missing=MISSING,
            library=LIBRARY,
            commands=COMMANDS,
            must=f"ModelOpt must turn the language model into {precision}",
            otherwise="take GGUF",
        )
        return Loss(**json.loads(Path(folder, LOSS_FILE).read_text("utf-8")))


def _read_source(source: Path, precision: str) -> tuple[dict[str, Any], LanguageSizes]:
    """Read config.json, and refuse what could not be written or run."""
    try:
        config = json.loads((source / CONFIG_FILE).read_text("utf-8"))
        sizes = LanguageSizes.of_config(config)
    except (OSError, ValueError, EngineError) as error:
        raise CheckpointError(
            f"{source} must be the Hugging Face folder of a language model: {error}"
        ) from error
    if not any((source / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"{source} must have {' or '.join(TOKENIZER_FILES)}, which TensorRT-LLM takes from the "
            "quantized folder; it has none; copy it there"
        )
    if misaligned := sizes.misaligned(precision):
        raise CheckpointError(
            f"for {precision} layers must have multiples of 64 outputs and 128 inputs; "
            f"{len(misaligned)} have not, the first is {misaligned[0]}; take fp8 or int8-sq"
        )
    return config, sizes


def _array(part: Part, sizes: LanguageSizes) -> np.ndarray:
    """Turn a part into (n,) int64 ids or (n, width) float32 vectors."""
    array = np.asarray(part)
    is_vectors = array.ndim == 2 and array.dtype.kind == "f" and array.shape[1] == sizes.width
    is_ids = array.ndim == 1 and array.dtype.kind in "iu"
    if not is_vectors and not (is_ids and ((array >= 0) & (array < sizes.vocabulary)).all()):
        raise UsageError(
            f"a part of a text must be ids below {sizes.vocabulary} or vectors "
            f"(n, {sizes.width}); got {array.dtype} {array.shape}; take this model's tokenizer"
        )
    return array.astype(np.float32 if is_vectors else np.int64)


def _ends_in_a_token(text: list[np.ndarray]) -> bool:
    """Say whether the last of two things or more is a token."""
    return sum(map(len, text)) > 1 and text[-1].ndim == 1 and len(text[-1]) > 0


def _complete(folder: Path, source: Path, config: dict[str, Any]) -> None:
    """Keep the source's own config, as transformers renames entries that other readers need."""
    short = json.loads((folder / CONFIG_FILE).read_text("utf-8"))["quantization_config"]
    whole = {**config, "torch_dtype": "float16", "quantization_config": short}
    whole.pop("dtype", None)
    (folder / CONFIG_FILE).write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
    for path in source.iterdir():
        is_weights = path.suffix in SUFFIXES or path.name.endswith(".index.json")
        if path.is_file() and not is_weights and path.name != CONFIG_FILE:
            shutil.copyfile(path, folder / path.name)
